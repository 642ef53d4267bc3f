//! A launcher's connection to node rank 0's.

use super::message::{Hello, Message, PROTOCOL, Report, Verdict};
use crate::launch::host;
use crate::launch::supervise::signals::Event;
use crate::rendezvous::{HELLO_TIMEOUT, Inbox, Outbox, Secret, Silence, line, nonce, split};
use std::collections::VecDeque;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whom to call, and who calls.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) master: String,
    pub(crate) port: u16,
    pub(crate) secret: Secret,
    pub(crate) heartbeat: Duration,
    pub(crate) node: usize,
    /// The range of hosts.
    pub(crate) nodes: (usize, usize),
    /// How many starts have failed on other hosts.
    pub(crate) failed_starts: Arc<AtomicUsize>,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It may succeed later.
    Retry(String),
    /// It will not succeed.
    Refused(String),
}

/// A launcher that belongs to a run.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name of the run.
    pub(crate) run: String,
    outbox: Outbox,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread that listens passes on.
#[derive(Debug)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
    closing: AtomicBool,
    failed_starts: Arc<AtomicUsize>,
    /// Wakes the launcher.
    events: Sender<Event>,
}

#[derive(Debug, Default)]
struct Heard {
    verdicts: VecDeque<Verdict>,
    /// The number after that of the last start.
    starts: usize,
    /// Why the connection has ended.
    lost: Option<String>,
}

/// What has come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    Nothing,
    Verdict(Verdict),
    /// The connection has ended.
    Lost(String),
}

impl Call {
    /// Calls once; `run` is the one that this launcher has belonged to.
    pub(crate) fn call(&self, run: Option<&str>, events: Sender<Event>) -> Result<Member, Failed> {
        let retry = |e: io::Error| Failed::Retry(e.to_string());
        let (mut inbox, outbox) = split(self.connect().map_err(retry)?).map_err(retry)?;
        let run = self.handshake(&mut inbox, &outbox, run)?;
        let shared = Arc::new(Shared {
            heard: Mutex::default(),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            failed_starts: self.failed_starts.clone(),
            events,
        });
        let (own, beats, heartbeat) = (shared.clone(), outbox.clone(), self.heartbeat);
        let listen = move || own.listen(inbox, &beats, heartbeat);
        let thread = std::thread::Builder::new().name("node rank 0".into());
        let thread = thread.spawn(listen).map_err(retry)?;
        Ok(Member {
            run,
            outbox,
            shared,
            thread: Some(thread),
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.master.as_str(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(socket) => return Ok(socket),
                Err(e) => problem = e,
            }
        }
        Err(problem)
    }

    /// Both sides prove the secret; returns the name of the run.
    fn handshake(
        &self,
        inbox: &mut Inbox,
        outbox: &Outbox,
        run: Option<&str>,
    ) -> Result<String, Failed> {
        let ours = nonce();
        let hello = Message::Hello(Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            nonce: ours.clone(),
            node: self.node,
            nodes: self.nodes,
            host: host::name(),
            run: run.map(str::to_owned),
        });
        let other = |message: &Message| Failed::Refused(line(&format!("it answered {message:?}")));
        let nonce = match exchange(inbox, outbox, &hello)? {
            Message::Challenge { nonce, proof }
                if self.secret.check("launchers", &ours, &proof) =>
            {
                nonce
            }
            Message::Challenge { .. } => {
                let problem = "what listens there has another secret: it is another run's";
                return Err(Failed::Refused(problem.into()));
            }
            message => return Err(other(&message)),
        };
        inbox.trust();
        let proof = Message::Proof(self.secret.prove("launcher", &nonce));
        match exchange(inbox, outbox, &proof)? {
            Message::Welcome(run) => Ok(run),
            message => Err(other(&message)),
        }
    }
}

/// Sends a message of the handshake, and returns the answer.
fn exchange(inbox: &mut Inbox, outbox: &Outbox, message: &Message) -> Result<Message, Failed> {
    let sent = outbox.send(message);
    sent.map_err(|e| Failed::Retry(e.to_string()))?;
    match inbox.soon(2 * HELLO_TIMEOUT) {
        Ok(Message::Refused { problem, again }) => Err(match line(&problem) {
            problem if again => Failed::Retry(problem),
            problem => Failed::Refused(problem),
        }),
        Ok(message) => Ok(message),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            let e = line(&e.to_string());
            let problem = format!("what answered is not a launcher of burn-dist ({e})");
            Err(Failed::Refused(problem))
        }
        Err(e) => Err(Failed::Retry(e.to_string())),
    }
}

impl Member {
    /// Says how the ranks of this host are.
    pub(crate) fn report(&self, report: &Report) {
        // If the connection has ended, the thread that listens says so.
        let _ = self.outbox.send(&Message::Report(report.clone()));
    }

    /// What has been decided, if something comes within `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Next {
        let until = Instant::now() + wait;
        let mut heard = self.shared.heard();
        loop {
            if let Some(verdict) = heard.verdicts.pop_front() {
                return Next::Verdict(verdict);
            }
            if let Some(why) = &heard.lost {
                return Next::Lost(why.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            let woken = self.shared.changed.wait_timeout(heard, left);
            heard = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.outbox.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges signs of life with node rank 0, and hears what it decides.
    fn listen(&self, mut inbox: Inbox, outbox: &Outbox, heartbeat: Duration) {
        let beat_every = heartbeat / 4;
        let (mut silence, mut sent) = (Silence::default(), None::<Instant>);
        while !self.closing.load(Ordering::SeqCst) {
            if sent.is_none_or(|at| at.elapsed() >= beat_every) {
                sent = Some(Instant::now());
                let _ = outbox.send(&Message::Beat);
            }
            let lost = match silence.listen(&mut inbox, beat_every.min(Duration::from_millis(100)))
            {
                Ok(Some(Message::Verdict(verdict))) => {
                    self.hear(verdict);
                    None
                }
                Ok(_) if silence.is_longer_than(heartbeat) => {
                    Some(format!("no sign of life for {heartbeat:?}"))
                }
                Ok(_) => None,
                Err(_) => Some("its launcher closed the connection".into()),
            };
            if lost.is_some() {
                // The ranks of this host cannot go on without those of node rank 0.
                let mut heard = self.heard();
                heard.lost = lost;
                self.end_ranks(heard.starts);
                self.changed.notify_all();
                return;
            }
        }
    }

    fn hear(&self, verdict: Verdict) {
        let mut heard = self.heard();
        if let Verdict::Start(start) = &verdict {
            heard.starts = start.plan.restart + 1;
        }
        if matches!(verdict, Verdict::End | Verdict::Over(_)) {
            self.end_ranks(heard.starts);
        }
        if verdict != Verdict::End {
            heard.verdicts.push_back(verdict);
            self.changed.notify_all();
        }
    }

    /// Has the launcher end the ranks of the first so many starts, also if it has not started them yet.
    fn end_ranks(&self, starts: usize) {
        self.failed_starts.fetch_max(starts, Ordering::SeqCst);
        let _ = self.events.send(Event::Others);
    }
}
