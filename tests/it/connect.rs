//! Every way to be let in, and what happens to those who are not.

use std::{fs, path::Path};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa};
use serde_json::json;

use crate::harness::{NatsServer, Runner, Site, eventually, outcome, verb};

/// Runs one event through a function under a `nats` section; the proof is the runner's own.
async fn flows(server: &NatsServer, site: &Site, nats: &str) {
    site.file(
        "pelton.yaml",
        format!(
            "
version: 1
name: t
nats: {nats}
streams:
  IN: {{ subjects: [in.>] }}
  OUT: {{ subjects: [out.>] }}
functions:
  start: {{ exec: [echo, started] }}
  seen: {{ exec: [tee, seen] }}
bindings:
  - {{ subject: in.x, function: start, publish: out.x }}
  - {{ subject: out.x, function: seen }}
"
        ),
    );
    let mut runner = Runner::spawn(site, &server.url(), &[]);
    runner.wait_ready().await;
    runner.metric("nats_connected", &[], |connected| connected == 1.0).await;
    assert_eq!(runner.sigterm().await.code(), Some(0));
    let log = runner.log();
    assert!(!log.contains("s3cret"), "a secret is in the log: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password() {
    let config = "authorization { user: ada, password: s3cret }";
    let server = NatsServer::with_config(config).await;
    let url = server.url();
    flows(&server, &Site::new(), &format!("{{ servers: ['{url}'], user: ada, password: s3cret }}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_in_the_url() {
    let config = "authorization { user: ada, password: \"s3cret/@\" }";
    let server = NatsServer::with_config(config).await;
    let port = server.port();
    let nats = format!("{{ servers: ['nats://ada:s3cret%2F%40@127.0.0.1:{port}'] }}");
    flows(&server, &Site::new(), &nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token() {
    let server = NatsServer::with_config("authorization { token: s3cret }").await;
    let url = server.url();
    flows(&server, &Site::new(), &format!("{{ servers: ['{url}'], token: s3cret }}")).await;
    let port = server.port();
    let nats = format!("{{ servers: ['nats://s3cret@127.0.0.1:{port}'] }}");
    flows(&server, &Site::new(), &nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey_seed_file() {
    let user = KeyPair::new_user();
    let config = format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key());
    let server = NatsServer::with_config(&config).await;
    let site = Site::new();
    site.file("user.nk", user.seed().expect("a seed"));
    let url = server.url();
    flows(&server, &site, &format!("{{ servers: ['{url}'], nkey_seed_file: user.nk }}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_file() {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
    let claims = |kind: &str, more: serde_json::Value| {
        let mut claims =
            json!({ "type": kind, "version": 2, "subs": -1, "data": -1, "payload": -1 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let limits = json!({ "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    } });
    let operator_claims = claims("operator", json!({ "system_account": system.public_key() }));
    let operator_jwt = jwt(&operator, &operator, operator_claims);
    let account_jwt = jwt(&operator, &account, claims("account", limits));
    let system_jwt = jwt(&operator, &system, claims("account", json!({})));
    let user_jwt = jwt(&account, &user, claims("user", json!({})));
    let config = format!(
        "operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload {{ {}: {account_jwt}, {}: {system_jwt} }}",
        account.public_key(),
        system.public_key(),
    );
    let server = NatsServer::with_config(&config).await;
    let site = Site::new();
    let seed = user.seed().expect("a seed");
    site.file(
        "user.creds",
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ),
    );
    let url = server.url();
    flows(&server, &site, &format!("{{ servers: ['{url}'], credentials_file: user.creds }}")).await;
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: serde_json::Value) -> String {
    let encode = |value: &serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = encode(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = encode(&json!({
        "jti": "test", "iat": 1_700_000_000, "name": "test",
        "iss": issuer.public_key(), "sub": subject.public_key(), "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// A certificate authority of our own, in files: `ca.pem`, and `<name>.pem` with `<name>.key`.
fn certificates(dir: &Path, names: &[&str]) {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).expect("written");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    write("ca.pem", authority.pem());
    for name in names {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
                .expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().expect("a key");
        write(&format!("{name}.pem"), params.signed_by(&key, &authority).expect("signed").pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls() {
    let site = Site::new();
    certificates(site.dir(), &["server"]);
    let file = |name: &str| site.path(name);
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, timeout: 10 }}",
        file("server.pem"),
        file("server.key")
    );
    let server = NatsServer::with_config(&config).await;
    let port = server.port();
    let nats = format!("{{ servers: ['tls://127.0.0.1:{port}'], tls: {{ ca_file: ca.pem }} }}");
    flows(&server, &site, &nats).await;
}

/// `NATS_URL` says where `pelton send` goes; who it is there and how it knows the server is the
/// manifest's to say, whether that was named or found.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_elsewhere_is_sent_as_the_manifest_says() {
    let site = Site::new();
    certificates(site.dir(), &["server"]);
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, timeout: 10 }}\nauthorization {{ user: ada, password: s3cret }}",
        site.path("server.pem"),
        site.path("server.key")
    );
    let server = NatsServer::with_config(&config).await;
    let nats = "{ servers: ['nats://127.0.0.1:1'], user: ada, password: s3cret, tls: { ca_file: ca.pem } }";
    let manifest = format!(
        "version: 1\nname: t\nnats: {nats}\nstreams: {{ IN: {{ subjects: [in.>] }} }}\nfunctions: {{ f: {{ exec: [cat] }} }}\nbindings: [{{ subject: in.x, function: f }}]\n"
    );
    site.file("pelton.yaml", &manifest);
    let there = format!("servers: ['{}']", server.url());
    site.file("there.yaml", manifest.replace("servers: ['nats://127.0.0.1:1']", &there));
    let (code, _, told) = outcome(verb(&site, "", &["apply", "there.yaml", "--yes"])).await;
    assert_eq!(code, 0, "{told}");
    let (port, mut sent) = (server.port(), 0);
    for url in [server.url(), format!("nats://127.0.0.1:1, 127.0.0.1:{port}")] {
        for named in [&[][..], &["--manifest", "pelton.yaml"]] {
            let words = [&["send", "in.x", "hello"], named].concat();
            let (code, said, told) = outcome(verb(&site, &url, &words)).await;
            sent += 1;
            assert_eq!((code, said.trim()), (0, format!("stored as IN:{sent}").as_str()), "{told}");
        }
    }
    let stranger = format!("nats://bob:s3cret@127.0.0.1:{port}");
    let (code, _, told) = outcome(verb(&site, &stranger, &["send", "in.x", "hello"])).await;
    assert_eq!(code, 3, "the URL's user counts: {told}");
}

/// Files that variables leave empty ask for nothing: one manifest serves with TLS and without.
#[tokio::test(flavor = "multi_thread")]
async fn tls_of_empty_texts_is_no_tls() {
    let server = NatsServer::start().await;
    let site = Site::new();
    let tls = "{ ca_file: '${NO_CA:-}', cert_file: '${NO_CERT:-}', key_file: '' }";
    flows(&server, &site, &format!("{{ servers: ['{}'], tls: {tls} }}", server.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls() {
    let site = Site::new();
    certificates(site.dir(), &["server", "client"]);
    let file = |name: &str| site.path(name);
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true, timeout: 10 }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let server = NatsServer::with_config(&config).await;
    let port = server.port();
    let tls = "{ ca_file: ca.pem, cert_file: client.pem, key_file: client.key }";
    let nats = format!("{{ servers: ['tls://localhost:{port}'], tls: {tls} }}");
    flows(&server, &site, &nats).await;
}

/// A server that lets nobody in is told apart from one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said() {
    let config = "authorization { user: ada, password: s3cret }";
    let server = NatsServer::with_config(config).await;
    let site = Site::with(
        "functions: { f: { exec: [cat] } }\nbindings: [{ subject: in.x, function: f }]\n",
    );
    let port = server.port();
    let url = format!("nats://ada:wr0ng@127.0.0.1:{port}");
    let runner = Runner::spawn(&site, &url, &[]);
    eventually("the runner says why", async || {
        runner.log().to_lowercase().contains("authorization").then_some(())
    })
    .await;
    assert!(!runner.log().contains("wr0ng"), "{}", runner.log());
}

/// A subject that we may not publish on is named, and the event is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_permission_violation_names_the_subject() {
    let config = "
authorization {
  users: [
    { user: ada, password: s3cret, permissions: { publish: { deny: [out.x] } } }
    { user: test, password: test }
  ]
}";
    let server = NatsServer::with_config(config).await;
    let site = Site::with(
        "
functions: { f: { exec: [cat] } }
bindings:
  - { subject: in.x, function: f, publish: out.x, retry: { attempts: 2, backoff: 50ms..100ms } }
",
    );
    let port = server.port();
    let mut runner = Runner::spawn(&site, &format!("nats://ada:s3cret@127.0.0.1:{port}"), &[]);
    runner.wait_ready().await;
    let options = async_nats::ConnectOptions::with_user_and_password("test".into(), "test".into());
    let streams = crate::harness::Streams::connect_with(&server.url(), options).await;
    streams.send("in.x", "hello").await;
    let letter = streams.wait_letters(1).await.remove(0);
    assert_eq!(letter.get("reason"), "output");
    assert_eq!(letter.payload, b"hello");
    let error = letter.get("error").to_lowercase();
    assert!(error.contains("permission") && error.contains("out.x"), "{error}");
    let log = runner.log().to_lowercase();
    assert!(log.contains("permission") && log.contains("out.x"), "{log}");
}
