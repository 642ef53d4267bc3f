//! What node rank 0's launcher runs for all: it takes calls, and tells launchers what has been decided.

use super::caller::{self, Shared};
use super::input::Input;
use super::message::{Message, Start, Verdict};
use super::plan::Plan;
use super::state::{Decision, Limits, Notice, State};
use crate::error::{Error, Result};
use crate::launch::supervise::port::Port;
use crate::rendezvous::{Outbox, Secret};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it looks whether the time of a decision has come, and whether it is to end.
const TICK: Duration = Duration::from_millis(50);
/// How long the others may take to hear the last decision.
const LINGER: Duration = Duration::from_secs(3);
/// Connections beyond one for each host: callers that have not proven the secret yet.
const MORE_CALLERS: usize = 64;

/// Where launchers meet; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The thread that decides.
struct Judge {
    state: State<Outbox>,
    inputs: Receiver<Input>,
    /// The connection of each host, and the host of each connection.
    lines: HashMap<usize, u64>,
    nodes: HashMap<u64, usize>,
    master: String,
    /// Kept for rank 0 until the next start.
    port: Option<Port>,
}

impl Service {
    /// Listens at `master`.
    ///
    /// # Errors
    /// [`Error::Config`] if the address is not this host's, or the port is in use.
    pub(crate) fn start(
        limits: Limits,
        (master, port): (&str, u16),
        secret: Secret,
        heartbeat: Duration,
    ) -> Result<Self> {
        let refused = |e: std::io::Error| {
            let what = format!("the address where launchers meet, {master}:{port}");
            let expected = "an address of this host, node rank 0, with a free port";
            Error::config(what, expected, e)
        };
        let listener = Port::listen(master, port).map_err(refused)?;
        let (inputs, receiver) = channel();
        let shared = Arc::new(Shared::new(&limits, secret, heartbeat, inputs));
        let judge = Judge {
            state: State::new(limits, Instant::now()),
            inputs: receiver,
            lines: HashMap::new(),
            nodes: HashMap::new(),
            master: master.into(),
            port: None,
        };
        let mut service = Self {
            shared: shared.clone(),
            threads: Vec::new(),
        };
        let for_judge = shared.clone();
        service.spawn("launchers", move || judge.run(&for_judge))?;
        service.spawn("launchers' calls", move || accept(&listener, &shared))?;
        Ok(service)
    }

    fn spawn(&mut self, name: &str, f: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(f);
        let thread = thread.map_err(|e| Error::config(name, "a thread", e))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let until = Instant::now() + LINGER;
        while self.shared.open.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(TICK / 5);
        }
        self.shared.closing.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Takes calls until the service closes, each on a thread of its own.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let most = shared.nodes.1.saturating_add(MORE_CALLERS);
    let mut line = 0;
    while !shared.closing.load(Ordering::SeqCst) {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        let timeout = Timespec::try_from(TICK).ok();
        if !matches!(poll(&mut ready, timeout.as_ref()), Ok(1..)) {
            continue;
        }
        let Ok((socket, from)) = listener.accept() else {
            // Out of file descriptors, perhaps: not again at once.
            std::thread::sleep(TICK);
            continue;
        };
        if shared.open.load(Ordering::SeqCst) >= most {
            continue;
        }
        line += 1;
        shared.open.fetch_add(1, Ordering::SeqCst);
        let caller = shared.clone();
        let serve = move || {
            caller::serve(&caller, socket, from, line);
            caller.open.fetch_sub(1, Ordering::SeqCst);
        };
        let thread = std::thread::Builder::new().name("launcher's call".into());
        if thread.spawn(serve).is_err() {
            shared.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Judge {
    fn run(mut self, shared: &Shared) {
        while !shared.closing.load(Ordering::SeqCst) {
            let notices = match self.inputs.recv_timeout(TICK) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.tell(notices);
            let notices = self.state.decide(Instant::now());
            self.tell(notices);
        }
    }

    fn take(&mut self, input: Input) -> Vec<Notice<Outbox>> {
        let now = Instant::now();
        match input {
            Input::Came {
                line,
                hello,
                outbox,
                answer,
            } => {
                let joined = self.state.come(hello.node, &hello.host, outbox);
                if joined.is_ok() {
                    self.lines.insert(hello.node, line);
                    self.nodes.insert(line, hello.node);
                }
                let _ = answer.send(joined);
                Vec::new()
            }
            Input::Report { line, report } => match self.node(line) {
                Some(node) => self.state.report(node, report, now),
                None => Vec::new(),
            },
            Input::Left { line, why } => {
                let node = self.node(line);
                self.nodes.remove(&line);
                match node {
                    Some(node) => self.state.leave(node, &why, now),
                    None => Vec::new(),
                }
            }
        }
    }

    /// The host of a connection, unless its launcher has called again since.
    fn node(&self, line: u64) -> Option<usize> {
        let node = *self.nodes.get(&line)?;
        (self.lines.get(&node) == Some(&line)).then_some(node)
    }

    fn tell(&mut self, notices: Vec<Notice<Outbox>>) {
        let mut port = None;
        for Notice { to, decision } in notices {
            let verdict = match decision {
                Decision::End => Verdict::End,
                Decision::Finished => Verdict::Finished,
                Decision::Over(error) => Verdict::Over(error),
                Decision::Start(plan) => {
                    let port = port.get_or_insert_with(|| self.fresh_port());
                    start(plan, port.clone())
                }
            };
            // If the connection has ended, the caller's thread says so.
            let _ = to.send(&Message::Verdict(verdict));
        }
    }

    /// A port for rank 0 that no other program has.
    fn fresh_port(&mut self) -> Result<u16> {
        let port = Port::for_other_hosts(&self.master)?;
        let number = port.number();
        self.port = Some(port);
        Ok(number)
    }
}

fn start(plan: Plan, port: Result<u16>) -> Verdict {
    match port {
        Ok(port) => Verdict::Start(Start { plan, port }),
        Err(error) => Verdict::Over(Some(error)),
    }
}
