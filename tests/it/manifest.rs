//! Manifests as data: the valid ones load, each broken one yields what stands beside it.
//! `UPDATE_EXPECT=1` writes what it yields now.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use pelton::manifest::{
    Auth, Diagnostics, Http, HttpMode, Lambda, LambdaEvent, Loaded, Manifest, Mode, Publish,
    Runtime, Secret, Start, schema,
};

/// The environment of every manifest here; nothing else is set.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "NATS_URL" => "nats://runner:s3cret-word@nats.example.com:4222",
        "EMPTY" => "",
        "NUMBER" => "32",
        "FLAG" => "true",
        "LIST" => "[a, b]",
        "STAGE" => "staging",
        "BROKEN_URL" => "http://runner:s3cret-word@nats.example.com",
        _ => return None,
    };
    Some(value.to_owned())
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(kind)
}

fn manifests(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .collect();
    files.sort();
    files
}

/// What the program says about a file, without the folder it happens to be in.
fn check(path: &Path, mode: Mode) -> Result<Loaded, String> {
    let result = match fs::read_to_string(path) {
        Ok(text) => Manifest::parse(&text, path, &env, mode),
        Err(_) => Manifest::read(path, mode),
    };
    result.map_err(|found| anonymous(&found, path))
}

fn anonymous(found: &Diagnostics, path: &Path) -> String {
    let folder = format!("{}/", path.parent().unwrap().display());
    format!("{}\n", found.to_string().replace(&folder, ""))
}

fn expect(path: &Path, actual: &str) -> Result<(), String> {
    let beside = path.with_extension("txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&beside, actual).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(&beside).unwrap_or_default();
    if expected == actual {
        return Ok(());
    }
    Err(format!("--- {}, expected:\n{expected}--- found:\n{actual}", path.display()))
}

#[test]
fn broken_manifests_yield_what_stands_beside_them() {
    let files = manifests("invalid");
    assert!(files.len() >= 20);
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let found = match check(path, Mode::Run) {
                Ok(_) => "nothing wrong\n".to_owned(),
                Err(found) => found,
            };
            expect(path, &found).err()
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for path in files {
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        assert!(expected.contains(": error: "), "{}", path.display());
        assert!(!expected.contains("s3cret-word"), "{} shows a secret", path.display());
    }
}

#[test]
fn valid_manifests_load_with_the_warnings_that_stand_beside_them() {
    let mut wrong = Vec::new();
    for path in manifests("valid") {
        let loaded = check(&path, Mode::Run).unwrap_or_else(|found| panic!("{found}"));
        let warnings = Diagnostics(loaded.warnings);
        let text = if warnings.0.is_empty() { String::new() } else { anonymous(&warnings, &path) };
        wrong.extend(expect(&path, &text).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn valid(name: &str) -> Loaded {
    check(&folder("valid").join(name), Mode::Run).unwrap_or_else(|found| panic!("{found}"))
}

fn parse(text: &str, mode: Mode) -> Result<Loaded, Diagnostics> {
    Manifest::parse(text, Path::new("pelton.yaml"), &env, mode)
}

#[test]
fn defaults_are_those_of_the_table() {
    let Loaded { manifest, .. } = valid("smallest.yaml");
    let binding = &manifest.bindings[0];
    assert_eq!(binding.name, "hello");
    assert_eq!(binding.concurrency.get(), 16);
    assert_eq!(binding.timeout.as_secs(), 30);
    assert_eq!(binding.retry.attempts.get(), 8);
    assert_eq!(binding.retry.backoff_min.as_secs(), 1);
    assert_eq!(binding.retry.backoff_max.as_secs(), 60);
    assert_eq!(binding.retry.losses, 5);
    assert_eq!(binding.retry.max_age, None);
    assert_eq!(binding.ack_wait.as_secs(), 30);
    assert_eq!(binding.max_ack_pending.get(), 4096);
    assert_eq!(binding.slot_bytes, 64 << 20);
    assert_eq!(binding.start, Start::All);
    assert_eq!(manifest.nats.servers, ["nats://127.0.0.1:4222"]);
    assert_eq!(manifest.nats.auth, Auth::None);
    assert_eq!(manifest.dead_letter.stream, "MY_SHOP_DLQ");
    assert_eq!(manifest.dead_letter.subject, "dlq.my-shop");
    assert_eq!(manifest.admin.to_string(), "127.0.0.1:8320");
    assert_eq!(manifest.drain.as_secs(), 25);
    assert_eq!(manifest.digest.len(), 16);
    let function = &manifest.functions["hello"];
    assert_eq!(function.runtime, Runtime::Exec(vec!["cat".to_owned()]));
    assert_eq!(function.cwd, manifest.dir);
    assert_eq!(function.idle_timeout.as_secs(), 300);
    assert_eq!(function.start_timeout.as_secs(), 30);
}

#[test]
fn lambda_is_a_command_or_keys_with_one() {
    let Loaded { manifest, .. } = valid("lambda.yaml");
    let lambda = |name: &str| match &manifest.functions[name].runtime {
        Runtime::Lambda(lambda) => lambda.clone(),
        other => panic!("{other:?}"),
    };
    let words = ["python3", "-m", "awslambdaric", "app.handler"];
    let short = Lambda {
        command: words.map(str::to_owned).into(),
        event: LambdaEvent::Payload,
        handler: String::new(),
    };
    assert_eq!(lambda("short"), short);
    let bootstrap = folder("valid").join("bootstrap").display().to_string();
    let long = Lambda {
        command: vec![bootstrap, "--fast".to_owned()],
        event: LambdaEvent::CloudEvents,
        handler: "app.handler".to_owned(),
    };
    assert_eq!(lambda("long"), long);
}

#[test]
fn http_is_a_url_or_keys_with_one() {
    let Loaded { manifest, .. } = valid("http.yaml");
    let http = |name: &str| match &manifest.functions[name].runtime {
        Runtime::Http(http) => (**http).clone(),
        other => panic!("{other:?}"),
    };
    let short = Http {
        url: "http://audit.internal/events".parse().unwrap(),
        mode: HttpMode::Binary,
        headers: Vec::new(),
        ca_file: None,
        max_response: 4 << 20,
        http2: false,
        reject_on: [404, 409].into(),
    };
    assert_eq!(http("short"), short);
    let secret = fs::read_to_string(folder("valid").join("secret")).unwrap();
    let header = |name: &str, value: &str| (name.to_owned(), Secret(value.to_owned()));
    let long = Http {
        url: "https://audit.internal:8443/events?tenant=1".parse().unwrap(),
        mode: HttpMode::Structured,
        headers: vec![header("authorization", secret.trim()), header("x-stage", "staging")],
        ca_file: Some(folder("valid").join("missing.pem")),
        max_response: 64 << 10,
        http2: true,
        reject_on: [].into(),
    };
    assert_eq!(http("long"), long);
    assert_eq!(long.shown(), "https://audit.internal:8443/events");
    assert!(!format!("{manifest:?}").contains(secret.trim()));
}

#[test]
fn substitution_types_plain_scalars_and_nothing_else() {
    let Loaded { manifest, secrets, .. } = valid("substitution.yaml");
    assert_eq!(manifest.nats.servers, ["nats://nats.example.com:4222"]);
    assert!(matches!(&manifest.nats.auth, Auth::UserPassword(user, password)
        if user == "runner" && password.0 == "s3cret-word"));
    assert!(!format!("{manifest:?}").contains("s3cret-word"));
    let binding = &manifest.bindings[0];
    assert_eq!(binding.concurrency.get(), 32);
    assert_eq!(binding.subjects, ["orders.staging.placed"]);
    let env = &manifest.functions["charge"].env;
    assert_eq!(env["NUMBER"], "32");
    assert_eq!(env["FLAG"], "true");
    assert_eq!(env["LIST"], "[a, b]");
    assert_eq!(env["LITERAL"], "${NUMBER} costs $5");
    assert_eq!(env["FILE"], "from a file");
    assert_eq!(env["DEFAULT"], "a:b");
    assert!(secrets.contains(&"NATS_URL".to_owned()));
    assert!(secrets.contains(&"file:secret".to_owned()));
}

#[test]
fn every_key_is_read() {
    let Loaded { manifest, .. } = valid("everything.yaml");
    let charge = &manifest.bindings[0];
    assert_eq!(charge.subjects, ["orders.placed", "orders.retried"]);
    assert_eq!(charge.stream.as_deref(), Some("ORDERS"));
    assert_eq!(charge.retry.backoff_min.as_millis(), 500);
    assert_eq!(charge.start, Start::Sequence(42));
    assert_eq!(
        charge.publish,
        Some(Publish::Many {
            first: "payments.succeeded".to_owned(),
            others: vec!["payments.*".to_owned()]
        })
    );
    assert!(matches!(manifest.bindings[1].start, Start::Time(_)));
    let stream = &manifest.streams[0];
    assert_eq!(stream.name, "ORDERS");
    assert_eq!(stream.max_bytes, Some(10 << 30));
    assert_eq!(stream.placement.as_ref().unwrap().tags, ["ssd"]);
    assert_eq!(manifest.num_replicas.get(), 3);
    assert_eq!(manifest.functions["charge"].workers.unwrap().get(), 4);
    assert!(manifest.functions["charge"].cwd.is_absolute());
}

#[test]
fn what_is_unset_is_an_error_to_run_and_a_warning_to_lint() {
    let text = "version: 1\nname: a\nfunctions: {f: {exec: [cat]}}\nbindings:\n  \
                - {subject: \"${NOWHERE}.x\", function: f}\n";
    let error = parse(text, Mode::Run).unwrap_err();
    assert_eq!(error.errors(), 1, "{error}");
    let loaded = parse(text, Mode::Lint).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].message.contains("NOWHERE"));
}

#[test]
fn an_environment_variable_beats_the_admin_address() {
    let text = "version: 1\nname: a\nadmin: {listen: 127.0.0.1:1}\n";
    let listen = |value: &'static str| {
        let env = move |name: &str| (name == "PELTON_ADMIN_LISTEN").then(|| value.to_owned());
        Manifest::parse(text, Path::new("pelton.yaml"), &env, Mode::Run)
    };
    assert_eq!(listen("0.0.0.0:9000").unwrap().manifest.admin.to_string(), "0.0.0.0:9000");
    assert!(listen("nowhere").unwrap_err().to_string().contains("PELTON_ADMIN_LISTEN"));
}

#[test]
fn no_mutation_of_a_manifest_panics() {
    let mut cases = 0;
    for path in manifests("valid") {
        let text = fs::read(&path).unwrap();
        for (index, mutant) in mutants(&text).enumerate() {
            let Ok(mutant) = String::from_utf8(mutant) else { continue };
            let mode = if index % 2 == 0 { Mode::Run } else { Mode::Lint };
            if let Err(found) = Manifest::parse(&mutant, &path, &env, mode) {
                assert!(found.errors() > 0, "{}: {mutant}", path.display());
            }
            cases += 1;
        }
    }
    assert!(cases > 3000, "{cases}");
}

/// Bytes and lines left out, doubled, exchanged for others that mean something to YAML.
fn mutants(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    const STRANGERS: &[u8] = b"{}[]:,-\"'#&*!|>%@`$\t\n \0~0<?";
    let bytes = (0..text.len()).step_by(3).flat_map(move |at| {
        let mut without = text.to_vec();
        let byte = without.remove(at);
        let mut doubled = text.to_vec();
        doubled.insert(at, byte);
        let mut strange = text.to_vec();
        strange[at] = STRANGERS[(at * 7) % STRANGERS.len()];
        [without, doubled, strange]
    });
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let lines = (0..lines.len()).flat_map(move |at| {
        let mut without = lines.clone();
        let line = without.remove(at);
        let mut doubled = lines.clone();
        doubled.insert(at, line);
        let mut moved = without.clone();
        moved.insert((at * 5) % lines.len(), line);
        [without.concat(), doubled.concat(), moved.concat()]
    });
    bytes.chain(lines)
}

mod structure;
