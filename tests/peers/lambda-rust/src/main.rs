//! A Lambda function as AWS documents it: it knows nothing of Pelton.

use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let (order, context) = event.into_parts();
    let diagnostic = |error_type: &str| Diagnostic {
        error_type: error_type.to_owned(),
        error_message: format!("order {}", order["n"]),
    };
    match order["please"].as_str() {
        Some("fail") => Err(diagnostic("Busy")),
        Some("reject") => Err(diagnostic("Reject")),
        _ => Ok(json!({
            "n": order["n"],
            "request": context.request_id,
            "attempt": context.client_context.map(|client| client.custom),
            "function": context.env_config.function_name,
        })),
    }
}
