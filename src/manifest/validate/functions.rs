//! `functions:`

mod idle;
mod wasm;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path as FilePath, PathBuf},
};

use super::{
    entries,
    files::{degraded, exists},
    named,
    nats::resolve,
    non_zero, positive_span, present,
};
use crate::manifest::{
    Function, Lambda, Runtime, cpu, defaults,
    leaf::{Count, Cpu, Flag, Keys, Named, Positive, Size, Text},
    path::Path,
    raw,
    report::Report,
};

/// The functions, and the names of those that are there but not valid.
pub(super) struct Functions {
    pub(super) valid: BTreeMap<String, Function>,
    pub(super) names: Vec<String>,
}

pub(super) fn functions(
    raw: Option<Named<Keys<raw::Function>>>,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Functions {
    let mut functions = Functions { valid: BTreeMap::new(), names: Vec::new() };
    for (name, raw) in entries(raw) {
        let path = path.key(&name);
        functions.names.push(name.clone());
        if report.is_spoiled(&path) || !named(&name, "a function", &path, report) {
            continue;
        }
        let function = function(&name, raw, dir, &path, report);
        functions.valid.insert(name, function);
    }
    functions
}

fn function(
    name: &str,
    raw: raw::Function,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Function {
    let written_beside = idle::Common::of(&raw);
    let cwd = match raw.cwd {
        None => dir.to_path_buf(),
        Some(Text(cwd)) => {
            let folder = resolve(dir, &cwd);
            if !folder.is_dir() {
                degraded(&path.key("cwd"), format!("there is no folder `{cwd}`"), report);
            }
            folder
        }
    };
    let start = path.key("start_timeout");
    // Native stands in where it is not known: such a manifest is only checked, never run.
    let common = Function {
        name: name.to_owned(),
        runtime: Runtime::Native,
        env: env(raw.env, &path.key("env"), report),
        cwd,
        workers: workers(raw.workers, &path.key("workers"), report),
        idle_timeout: positive_span(
            raw.idle_timeout,
            defaults::IDLE_TIMEOUT,
            &path.key("idle_timeout"),
            report,
        ),
        start_timeout: positive_span(raw.start_timeout, defaults::START_TIMEOUT, &start, report),
        memory_limit: raw.memory_limit.map(|Size(size)| size),
        cpu_limit: raw.cpu_limit.map(|Cpu(share)| share),
    };
    if common.cpu_limit.is_some_and(|share| share < cpu::MIN) {
        report.error(&path.key("cpu_limit"), format!("`cpu_limit` must be at least {}m", cpu::MIN));
    }
    if common.memory_limit == Some(0) {
        report.error(&path.key("memory_limit"), "`memory_limit` must be more than 0");
    }
    let wasm = wasm::Keys { allow: raw.allow, instance: raw.instance };
    let written = Written {
        run: raw.run,
        command: raw.command,
        exec: raw.exec,
        http: raw.http,
        lambda: raw.lambda,
        native: raw.native,
        reject_on: raw.reject_on,
        wasm,
    };
    match runtime(name, written, dir, path, report) {
        Some(runtime) => {
            written_beside.warn(&runtime, path, report);
            Function { runtime, ..common }
        }
        None => common,
    }
}

/// The keys of which a function has one.
struct Written {
    run: Option<Text>,
    command: Option<Vec<Option<Text>>>,
    exec: Option<Vec<Option<Text>>>,
    http: Option<raw::Http>,
    lambda: Option<raw::Lambda>,
    native: Option<Flag>,
    /// Of `http` alone.
    reject_on: Option<Vec<Option<Count>>>,
    wasm: wasm::Keys,
}

fn runtime(
    name: &str,
    written: Written,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Option<Runtime> {
    let keys = [
        ("run", written.run.is_some()),
        ("command", written.command.is_some()),
        ("exec", written.exec.is_some()),
        ("http", written.http.is_some()),
        ("lambda", written.lambda.is_some()),
        ("native", written.native.is_some()),
    ];
    let mut there = keys.iter().filter(|(_, there)| *there).map(|(key, _)| *key);
    let Some(first) = there.next() else {
        report.missing(
            path,
            &["run", "command", "exec", "http", "lambda", "native"],
            format!("the function {name} says nothing about what runs it"),
            "add one of `run: file.py`, `command: [...]`, `exec: [...]`, `http: URL`, `lambda: [...]`, `native: true`",
        );
        return None;
    };
    for second in there {
        report.error_hint(
            &path.key(second),
            format!("`{first}` and `{second}` exclude each other"),
            "a function has one of run, command, exec, http, lambda, native",
        );
    }
    if written.reject_on.is_some() && written.http.is_none() {
        let hint = "only functions with `http` answer with a status: take it out";
        report.error_hint(&path.key("reject_on"), "`reject_on` needs `http`", hint);
    }
    let Written { run, wasm, .. } = &written;
    if let Some(Text(file)) = run.as_ref().filter(|Text(file)| wasm::is_component(file)) {
        let full = resolve(dir, file);
        exists(&full, file, &path.key("run"), report);
        return Some(Runtime::Wasm(wasm::component(full, wasm, dir, path, report)));
    }
    wasm::refuse(wasm, path, report);
    match written {
        Written { run: Some(Text(file)), .. } => script(&file, dir, &path.key("run"), report),
        Written { command: Some(words), .. } => {
            program(words, dir, &path.key("command"), report).map(Runtime::Command)
        }
        Written { exec: Some(words), .. } => {
            program(words, dir, &path.key("exec"), report).map(Runtime::Exec)
        }
        Written { http: Some(http), reject_on, .. } => {
            super::http::http(http, reject_on, dir, path, report)
        }
        Written { lambda: Some(raw), .. } => lambda(raw, dir, &path.key("lambda"), report),
        Written { native: Some(Flag(false)), .. } => {
            let hint = "write `native: true`, or say what runs the function";
            report.error_hint(&path.key("native"), "`native: false` means nothing", hint);
            None
        }
        _ => Some(Runtime::Native),
    }
}

fn lambda(raw: raw::Lambda, dir: &FilePath, path: &Path, report: &mut Report) -> Option<Runtime> {
    let at = if raw.short { path.clone() } else { path.key("command") };
    let Some(words) = raw.command else {
        let hint = "add `command: [\"./bootstrap\"]`, the program with its arguments";
        report.missing(path, &["command"], "`lambda` needs a command", hint);
        return None;
    };
    let handler = raw.handler.map(|Text(handler)| handler).unwrap_or_default();
    if handler.contains('\0') {
        report.error(&path.key("handler"), "`handler` cannot contain a null character");
    }
    let command = program(words, dir, &at, report)?;
    let event = raw.event.unwrap_or_default();
    Some(Runtime::Lambda(Lambda { command, event, handler }))
}

fn script(file: &str, dir: &FilePath, path: &Path, report: &mut Report) -> Option<Runtime> {
    let full = resolve(dir, file);
    let kind: fn(PathBuf) -> Runtime = match full.extension().and_then(|kind| kind.to_str()) {
        Some("py") => Runtime::Python,
        Some("js" | "mjs") => Runtime::Node,
        _ => {
            report.error_hint(
                path,
                format!("`{file}` is no file that `run` knows: .py, .js, .mjs or .wasm"),
                "run other programs with `command: [...]` or `exec: [...]`",
            );
            return None;
        }
    };
    exists(&full, file, path, report);
    let runtime = kind(full);
    if let Runtime::Python(file) = &runtime {
        idle::warn_of_name(file, path, report);
    }
    Some(runtime)
}

/// A program with a slash is relative to the manifest, as every path is; one without is looked for
/// on the PATH.
fn program(
    words: Vec<Option<Text>>,
    dir: &FilePath,
    path: &Path,
    report: &mut Report,
) -> Option<Vec<String>> {
    let words = words.into_iter().map(|word| word.map(|Text(word)| word)).collect();
    let words = present(words, path, report);
    let mut words = words.into_iter();
    let Some((at, program)) = words.next().filter(|(_, program)| !program.is_empty()) else {
        let hint = "name the program and its arguments: [\"./enrich\", \"--fast\"]";
        report.error_hint(path, format!("`{}` names no program", path.tail()), hint);
        return None;
    };
    let program = if program.contains('/') {
        let full = resolve(dir, &program);
        exists(&full, &program, &at, report);
        full.to_string_lossy().into_owned()
    } else {
        program
    };
    let words: Vec<String> = std::iter::once(program).chain(words.map(|(_, word)| word)).collect();
    if words.iter().any(|word| word.contains('\0')) {
        report.error(path, "a word of a command cannot contain a null character");
    }
    Some(words)
}

fn env(raw: Option<Named<Text>>, path: &Path, report: &mut Report) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in raw.map(|Named(entries)| entries).unwrap_or_default() {
        let at = path.key(&name);
        let value = value.map(|Text(value)| value).unwrap_or_default();
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            report.error(&at, format!("`{name}` cannot be an environment variable"));
        }
        if name.starts_with("PELTON_") {
            report.error_hint(&at, format!("`{name}` is a name that Pelton keeps"), "rename it");
        }
        env.insert(name, value);
    }
    env
}

/// More workers than any machine can run are a slip of the finger.
const WORKERS_MAX: u64 = 4096;

fn workers(raw: Option<Positive>, path: &Path, report: &mut Report) -> Option<NonZeroUsize> {
    raw?;
    Some(non_zero(super::count(raw, 1, WORKERS_MAX, path, report)))
}
