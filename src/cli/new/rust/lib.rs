//! A function for the world of wit/event.wit: a list of events in, a verdict for each of them out.

wit_bindgen::generate!({ path: "wit", world: "function" });

use exports::pelton::event::handler::{Call, Event, Failure, Guest, Output, Reply};
use pelton::event::log;
use serde_json::{json, Value};

struct Greeter;

impl Guest for Greeter {
    fn handle(call: Call) -> Reply {
        Reply { verdicts: call.events.into_iter().map(greet).collect(), state: None }
    }
}

/// `Ok` publishes the outputs; `Err(Failure::Retry(…))` tries again; `Reject` makes a dead letter.
fn greet(event: Event) -> Result<Vec<Output>, Failure> {
    let data: Value = serde_json::from_slice(&event.data)
        .map_err(|err| Failure::Undecodable(err.to_string()))?;
    let Some(name) = data["name"].as_str() else {
        return Err(Failure::Reject("nobody to greet".to_owned()));
    };
    log::log(log::Level::Info, &format!("greeting {name}"));
    let greeting = json!({ "greeting": format!("Hello, {name}!") });
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Ok(vec![Output { subject: None, headers, data: greeting.to_string().into_bytes() }])
}

export!(Greeter);
