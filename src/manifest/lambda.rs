//! A function behind the AWS Lambda Runtime API, as the manifest describes it.

/// A program with a Lambda runtime client in it, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lambda {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What an invocation's body is.
    pub event: LambdaEvent,
    /// `_HANDLER` of the program; empty when there is none.
    pub handler: String,
}

/// What the body of an invocation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LambdaEvent {
    /// The event's payload, made JSON if it is none.
    #[default]
    Payload,
    /// The event as a structured `CloudEvent`.
    CloudEvents,
    /// The events of a call as the `Records` that a function gets of a queue of AWS SQS.
    Sqs,
}
