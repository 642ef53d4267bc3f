//! Launchers of one process, over real connections.

use super::*;
use crate::launch::supervise::signals::Event;
use crate::rendezvous::Secret;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// No wait here takes so long.
const LIMIT: Duration = Duration::from_secs(10);

fn service() -> (Service, u16) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let limits = Limits {
        least_nodes: 1,
        most_nodes: 2,
        max_restarts: 1,
        rejoin: Duration::from_millis(300),
        patience: LIMIT,
        ending: LIMIT,
    };
    let address = ("127.0.0.1", port);
    let service = Service::start(limits, address, Secret::new("hush"), HEARTBEAT);
    (service.unwrap(), port)
}

fn call(port: u16, node: usize, secret: &str) -> Call {
    Call {
        master: "127.0.0.1".into(),
        port,
        secret: Secret::new(secret),
        heartbeat: HEARTBEAT,
        node,
        nodes: (1, 2),
        failed_starts: Arc::default(),
    }
}

fn join(call: &Call) -> (Member, Receiver<Event>) {
    let (sender, events) = channel();
    let member = call.call(None, sender).unwrap();
    report(&member, None);
    (member, events)
}

fn report(member: &Member, succeeded: Option<bool>) {
    member.report(&Report {
        succeeded,
        ranks: 2,
        least: 1,
        lost: Vec::new(),
    });
}

fn start(member: &Member) -> Start {
    match member.next(LIMIT) {
        Next::Verdict(Verdict::Start(start)) => start,
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_start_and_go_on_without_one_that_goes() {
    let (service, port) = service();
    // Strangers, one silent, one that says rubbish, and one that announces too much.
    let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for rubbish in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[2, 0, 0, 0, b'{', b'}'],
    ] {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stranger.write_all(rubbish);
    }
    let calls = [0, 1].map(|node| call(port, node, "hush"));
    let [(first, events), (second, _)] = calls.each_ref().map(join);
    let starts = [start(&first), start(&second)];
    assert_eq!(starts[0], starts[1]);
    assert_eq!((starts[0].plan.world(), starts[0].plan.restart), (4, 0));
    drop(second);
    // The ranks of the first start are to end, those of later ones are not.
    assert_eq!(events.recv_timeout(LIMIT), Ok(Event::Others));
    assert_eq!(calls[0].failed_starts.load(Ordering::SeqCst), 1);
    report(&first, Some(false));
    let again = start(&first);
    assert_eq!((again.plan.world(), again.plan.restart), (2, 1));
    assert_eq!((again.plan.initial, again.plan.former), (4, Some(4)));
    report(&first, Some(true));
    assert_eq!(first.next(LIMIT), Next::Verdict(Verdict::Finished));
    drop((first, silent));
    let since = Instant::now();
    drop(service);
    assert!(since.elapsed() < LIMIT);
}

#[test]
fn who_does_not_belong_is_refused() {
    let (service, port) = service();
    let refused = |call: Call, run: Option<&str>| {
        let failed = call.call(run, channel().0).unwrap_err();
        match failed {
            Failed::Refused(problem) => problem,
            Failed::Retry(problem) => panic!("{problem}"),
        }
    };
    assert!(refused(call(port, 1, "other"), None).contains("another secret"));
    let mut range = call(port, 1, "hush");
    range.nodes = (2, 2);
    assert!(refused(range, None).contains("--nnodes 2:2, node rank 0 with 1:2"));
    assert!(refused(call(port, 2, "hush"), None).contains("no node rank 2"));
    assert!(refused(call(port, 1, "hush"), Some("earlier")).contains("for another run"));
    // One that is taken may be free later.
    let (_first, _events) = join(&call(port, 0, "hush"));
    let taken = call(port, 0, "hush").call(None, channel().0).unwrap_err();
    assert!(matches!(&taken, Failed::Retry(problem) if problem.contains("node rank 0 is taken")));
    drop(service);
}

#[test]
fn the_end_of_the_service_is_noticed_by_its_members() {
    let (service, port) = service();
    let caller = call(port, 0, "hush");
    let (member, events) = join(&caller);
    assert_eq!(start(&member).plan.world(), 2);
    drop(service);
    let lost = "its launcher closed the connection".to_string();
    assert_eq!(member.next(LIMIT), Next::Lost(lost));
    assert_eq!(events.recv_timeout(LIMIT), Ok(Event::Others));
    assert_eq!(caller.failed_starts.load(Ordering::SeqCst), 1);
    let failed = caller.call(None, channel().0).unwrap_err();
    assert!(matches!(failed, Failed::Retry(_)), "{failed:?}");
}
