// A function for the world of ../event.wit: sends every payload on. ../README.md says how it is built.

wit_bindgen::generate!({ path: "wit", world: "function" });

use exports::pelton::event::handler::{Call, Event, Failure, Guest, Output, Reply, Retry};
use pelton::event::{config, log};

struct Ship;

impl Guest for Ship {
    fn handle(call: Call) -> Reply {
        Reply { verdicts: call.events.into_iter().map(ship).collect(), state: None }
    }
}

fn ship(event: Event) -> Result<Vec<Output>, Failure> {
    if event.data.is_empty() {
        return Err(Failure::Reject("an order without a word".to_owned()));
    }
    let Some(warehouse) = config::get("WAREHOUSE") else {
        let reason = "no warehouse is open".to_owned();
        return Err(Failure::Retry(Retry { reason, after: Some(5_000) }));
    };
    log::log(log::Level::Info, &format!("shipping {} from {warehouse}", event.id));
    Ok(vec![Output { subject: None, headers: Vec::new(), data: event.data }])
}

export!(Ship);
