use super::*;

/// Subject, headers and data.
type Shown = (Option<String>, Vec<(String, String)>, String);

fn said(body: &'static str) -> Result<Vec<Shown>, Fault> {
    match response(&Bytes::from_static(body.as_bytes()))? {
        Verdict::Done(outputs) => Ok(outputs
            .into_iter()
            .map(|out| {
                let headers = out.headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned()));
                (out.subject, headers.collect(), String::from_utf8_lossy(&out.data).into_owned())
            })
            .collect()),
        other => panic!("{other:?}"),
    }
}

fn typed(kind: &str, data: &str) -> Shown {
    (None, vec![("content-type".to_owned(), kind.to_owned())], data.to_owned())
}

#[test]
fn a_response_is_nothing_or_one_output() {
    for nothing in ["", " \n", "null", " null\n", r#"{"$pelton": {"events": []}}"#] {
        assert_eq!(said(nothing), Ok(vec![]), "{nothing}");
    }
    for json in ["0", "false", "\"a\"", "[1,  2]", "{\"a\":1.0}", "{}"] {
        assert_eq!(said(json), Ok(vec![typed(JSON, json)]));
    }
}

#[test]
fn a_response_can_be_several_outputs() {
    let several = said(
        r#"{"$pelton": {"events": [
            {"data": "text"}, {"data": {"a":  1.50}}, {"data": "a", "content_type": "application/json"},
            {"data_base64": "YWJj"}, {"subject": "out.b"}, {"data": "<a/>", "content_type": "text/xml"},
            {"data": 1, "headers": {"x-one": "1", "x-two": ["a", "b"]}}
        ]}}"#,
    )
    .unwrap_or_default();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let many = vec![
        header("x-one", "1"),
        header("x-two", "a"),
        header("x-two", "b"),
        header("content-type", JSON),
    ];
    let expected = [
        typed(TEXT, "text"),
        typed(JSON, r#"{"a":  1.50}"#),
        typed(JSON, "\"a\""),
        (None, vec![], "abc".to_owned()),
        (Some("out.b".to_owned()), vec![], String::new()),
        typed("text/xml", "<a/>"),
        (None, many, "1".to_owned()),
    ];
    assert_eq!(several, expected);
}

#[test]
fn what_is_no_response_is_a_bad_reply() {
    for (body, about) in [
        ("{", "no JSON"),
        ("payload", "no JSON"),
        (r#"{"$pelton": 1}"#, "`$pelton`"),
        (r#"{"$pelton": {"event": []}}"#, "`event`"),
        (r#"{"$pelton": {"events": [{"dta": 1}]}}"#, "`dta`"),
        (r#"{"$pelton": {"events": [{"data_base64": "?"}]}}"#, "data_base64"),
        (r#"{"$pelton": {"events": [{"data": 1, "data_base64": ""}]}}"#, "exclude"),
    ] {
        match said(body) {
            Err(Fault::BadReply(why)) if why.contains(about) => {}
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn an_error_is_retried_unless_it_rejects() {
    let retry = |reason: &str| Verdict::Retry { reason: reason.to_owned(), after: None };
    let reject =
        |reason: &str| Verdict::Reject { cause: Cause::Rejected, reason: reason.to_owned() };
    for (body, kind, expected) in [
        (r#"{"errorType": "E", "errorMessage": "boom"}"#, None, retry("E: boom")),
        (r#"{"errorMessage": "boom"}"#, Some("H"), retry("H: boom")),
        (r#"{"errorType": "E"}"#, None, retry("E")),
        ("boom", Some("H"), retry("H: boom")),
        ("", None, retry("an error without a word")),
        (r#"{"errorType": "Reject", "errorMessage": "never"}"#, None, reject("never")),
        (r#"{"errorType": "app.Reject"}"#, None, reject("app.Reject")),
        (r#"{"errorType": "app::Reject", "errorMessage": "n"}"#, None, reject("n")),
        (r#"{"errorType": "NoReject", "errorMessage": "n"}"#, None, retry("NoReject: n")),
    ] {
        assert_eq!(Verdict::from(&Failure::read(body.as_bytes(), kind)), expected, "{body}");
    }
    let traced = br#"{"errorType": "E", "stackTrace": ["a", {"line": 1}]}"#;
    assert_eq!(Failure::read(traced, None).trace, ["a", r#"{"line":1}"#]);
}

/// The records that have failed, as AWS has it.
fn failed(body: &str) -> Result<Vec<usize>, Fault> {
    let records = ["IN:1", "IN:2", "IN:3"].map(str::to_owned);
    let verdicts = failures(body.as_bytes(), &records)?;
    assert_eq!(verdicts.len(), records.len());
    let retried = verdicts.iter().enumerate().filter(|(_, said)| match said {
        Verdict::Retry { after: None, .. } => true,
        other => {
            assert_eq!(**other, Verdict::Done(Vec::new()));
            false
        }
    });
    Ok(retried.map(|(index, _)| index).collect())
}

#[test]
fn what_is_named_has_failed_and_nothing_else() {
    for none in ["", "null", "{}", "true", r#""OK""#, r#"{"statusCode": 200}"#] {
        assert_eq!(failed(none), Ok(vec![]), "{none}");
    }
    for none in ["null", "[]"] {
        assert_eq!(failed(&format!(r#"{{"batchItemFailures": {none}}}"#)), Ok(vec![]), "{none}");
    }
    let some = r#"{"batchItemFailures": [{"itemIdentifier": "IN:3"}, {"itemIdentifier": "IN:1"}]}"#;
    assert_eq!(failed(some), Ok(vec![0, 2]));
    assert_eq!(failed(&some.replace("IN:1", "IN:3")), Ok(vec![2]));
}

#[test]
fn what_names_nothing_that_is_there_fails_everything() {
    for item in [
        r#"{"itemIdentifier": ""}"#,
        r#"{"itemIdentifier": null}"#,
        r#"{"itemIdentifier": "IN:4"}"#,
        r#"{"itemIdentifier": 1}"#,
        r#"{"identifier": "IN:1"}"#,
        r#"{"itemIdentifier": "IN:1"}, {"itemIdentifier": "x"}"#,
        "null",
    ] {
        let body = format!(r#"{{"batchItemFailures": [{item}]}}"#);
        assert!(matches!(failed(&body), Err(Fault::BadReply(_))), "{item}");
    }
    for body in ["{", "nonsense", "[]", r#"{"batchItemFailures": "IN:1"}"#] {
        assert!(matches!(failed(body), Err(Fault::BadReply(_))), "{body}");
    }
}
