//! Knative functions, on the servers that `func` puts into their images.

use tokio::process::Command;

use super::{Framework, assert_numbers, each_event_once, peer, with_modules};
use crate::harness::{Site, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn a_knative_function_in_node() {
    let site = with_modules("faas-js-runtime");
    site.file(
        "index.js",
        r#"
const { appendFileSync } = require("node:fs");
const { CloudEvent } = require("cloudevents");

const handle = async (context, event) => {
  appendFileSync("seen", `${event.id} ${event.type} ${event.source} ${event.data.n}\n`);
  return new CloudEvent({ source: "peer", type: "echo", data: { n: event.data.n } });
};

module.exports = { handle };
"#,
    );
    let port = free_port();
    let mut command = Command::new(peer("peers-node/node_modules/.bin/faas-js-runtime"));
    command.arg(format!("--port={port}")).arg("index.js");
    let framework = Framework::start(&site, command, port).await;
    assert_numbers(each_event_once(&site, port).await);
    drop(framework);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knative_function_in_python() {
    let site = Site::new();
    site.file(
        "main.py",
        "
from cloudevents.http import CloudEvent
from func_python.cloudevent import serve

class Function:
    async def handle(self, scope, receive, send):
        event = scope['event']
        line = f'{event[\"id\"]} {event[\"type\"]} {event[\"source\"]} {event.data[\"n\"]}\\n'
        with open('seen', 'a') as seen:
            seen.write(line)
        data = {'n': event.data['n']}
        # Structured: one object with the event and its data.
        await send(CloudEvent({'type': 'echo', 'source': 'peer'}, data))

def new():
    return Function()

serve(new)
",
    );
    let port = free_port();
    let mut command = Command::new(peer("peers-python/bin/python"));
    command.arg("main.py").env("LISTEN_ADDRESS", format!("127.0.0.1:{port}"));
    let framework = Framework::start(&site, command, port).await;
    let outputs = each_event_once(&site, port).await;
    assert_numbers(outputs.iter().map(|text| text.replace(' ', "")).collect());
    drop(framework);
}
