//! A TCP proxy that does what networks do: it breaks connections, holds them up, and is slow.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// A way to a server on this machine.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// Connections are taken and nothing passes.
    held: bool,
    /// How long everything takes, each way.
    delay: Duration,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// To the server at this port.
    pub(crate) fn to(server: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket for tokio");
        let port = listener.local_addr().expect("it has an address").port();
        let listener = TcpListener::from_std(listener).expect("a socket of tokio");
        let (weather, forecast) = watch::channel(Weather::default());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, forecast.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, weather, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends every connection; what is on its way is lost.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Lets nothing pass, or lets pass what was held up and all that follows.
    pub(crate) fn hold(&self, held: bool) {
        self.weather.send_modify(|weather| weather.held = held);
    }

    /// Makes everything take this long, each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: u16, weather: watch::Receiver<Weather>) {
    let cuts = weather.borrow().cuts;
    let mut cut = weather.clone();
    let both = async {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // One side that ends ends the other.
        tokio::select! {
            () = pass(from_client, to_server, weather.clone()) => {}
            () = pass(from_server, to_client, weather) => {}
        }
    };
    tokio::select! {
        _ = cut.wait_for(|weather| weather.cuts != cuts) => {}
        () = both => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let ahead = weather.clone();
    let read = async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
            bytes.truncate(count);
            let due = Instant::now() + ahead.borrow().delay;
            if put.send((due, bytes)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = take.recv().await {
            sleep_until(due).await;
            if weather.wait_for(|weather| !weather.held).await.is_err()
                || to.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    };
    // The reader ends first, and what it has read is passed on.
    tokio::join!(read, write);
}
