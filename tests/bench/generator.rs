//! Events at fixed times, whether or not anybody keeps up (an open loop): each carries the time at which
//! it was due, so that a delay of the generator or of the server counts as latency, too.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What to publish.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) port: u16,
    /// A `*` stands for the number of the event, counted round by round up to `subjects`.
    pub(crate) subject: String,
    pub(crate) subjects: usize,
    pub(crate) rate: u32,
    pub(crate) length: Duration,
}

impl Load {
    /// Publishes all of it, on a thread of its own; returns how many events that were.
    pub(crate) async fn send(self) -> usize {
        tokio::task::spawn_blocking(move || self.publish()).await.expect("the generator ends")
    }

    /// The protocol of NATS by hand: a client of it has buffers and tasks, which wait.
    fn publish(&self) -> usize {
        let mut socket =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("a connection");
        socket.set_nodelay(true).expect("nothing is held back");
        socket.write_all(b"CONNECT {\"verbose\":false}\r\n").expect("it says hello");
        let interval = Duration::from_secs(1) / self.rate;
        let count = (self.length.as_nanos() / interval.as_nanos()) as usize;
        let start = now() + Duration::from_millis(10);
        for n in 0..count {
            let due = start + interval * u32::try_from(n).expect("a count");
            if let Some(early) = due.checked_sub(now()) {
                thread::sleep(early);
            }
            let data = due.as_nanos().to_string();
            let subject = self.subject.replace('*', &(n % self.subjects).to_string());
            let text = format!("PUB {subject} {}\r\n{data}\r\n", data.len());
            socket.write_all(text.as_bytes()).expect("it is sent");
        }
        // The answer proves that the server has read everything.
        socket.write_all(b"PING\r\n").expect("it asks");
        let mut heard = String::new();
        while !heard.contains("PONG") {
            let mut piece = [0; 4096];
            let length = socket.read(&mut piece).expect("it answers");
            heard.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        count
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}
