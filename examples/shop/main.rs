//! The example shop, from a private nats-server to the last shipment: `make demo`.
//!
//! It starts `pelton dev functions/pelton.yaml`, sends five orders with `pelton send`, and follows
//! each of them to its end: shipped, or a dead letter. It stays up until Ctrl-C; with `--once` it
//! ends as soon as every order has come to its end.

mod follow;
mod orders;
mod pelton;

use std::{env, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use self::{
    follow::{News, follow},
    orders::Orders,
    pelton::Pelton,
};

/// How long all orders together may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let once = env::args().any(|argument| argument == "--once");
    match demo(once).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(once: bool) -> Result<()> {
    println!("Opening the shop: pelton dev functions/pelton.yaml");
    let mut pelton = Pelton::dev("functions/pelton.yaml").await?;
    let url = pelton.url().to_owned();
    let outcome = tokio::select! {
        outcome = open(&url, once) => outcome,
        stopped = stop_asked() => stopped,
        ended = pelton.ended() => ended,
    };
    println!("Closing the shop.");
    pelton.close().await?;
    outcome
}

/// Takes the sample orders, and then whatever else comes until somebody closes the shop.
async fn open(url: &str, once: bool) -> Result<()> {
    let mut orders = Orders::default();
    let news = follow(url).await?;
    let trade = async { tokio::try_join!(place(url), tell(news, &mut orders)) };
    let in_time = timeout(PATIENCE, trade).await;
    println!("\n{orders}");
    match in_time {
        Ok(outcome) => outcome.map(drop)?,
        Err(_) => bail!("not every order came to its end within {PATIENCE:?}"),
    }
    if !once {
        println!("The shop stays open. In another terminal:");
        println!("  export NATS_URL={url}");
        println!("  target/debug/pelton send orders.placed '{}'", orders::SAMPLES[0].json);
        println!("Ctrl-C closes it.");
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn place(url: &str) -> Result<()> {
    for order in &orders::SAMPLES {
        println!("{}  placed: {}", order.id, order.about);
        pelton::send(url, "orders.placed", order.json).await?;
    }
    Ok(())
}

/// Tells each order's story to its end.
async fn tell(
    mut news: impl Stream<Item = Result<News>> + Unpin,
    orders: &mut Orders,
) -> Result<()> {
    while !orders.ended() {
        let news = news.next().await.context("the stream of news ended")??;
        println!("{}  {}", news.order, news.what);
        orders.note(news);
    }
    Ok(())
}

/// Ctrl-C, or what a supervisor sends.
async fn stop_asked() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
