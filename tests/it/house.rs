//! Rules of the house that a look at the source can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 40, "the sources are there");
    found
}

/// Lines of code with `needle` outside the files that may have it.
fn offenders(needle: &str, may: impl Fn(&Path) -> bool) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources()
        .iter()
        .filter(|(path, _)| !may(path.strip_prefix(&root).expect("below src")))
        .flat_map(|(path, text)| {
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
            lines
                .filter(|line| line.contains(needle) && !line.trim_start().starts_with("//"))
                .map(|line| format!("{}: {}", path.display(), line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn only_nats_names_the_client() {
    let found =
        offenders("async_nats", |path| path.starts_with("nats") || path == Path::new("nats.rs"));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_metrics_names_a_metric() {
    for needle in ["\"pelton_", "_total\"", "_seconds\""] {
        let found = offenders(needle, |path| {
            path == Path::new("metrics.rs") || path.starts_with("metrics")
        });
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn deciding_does_no_io_and_reads_no_clock() {
    let deciding = [
        "settle.rs",
        "settle/record.rs",
        "outputs.rs",
        "letter.rs",
        "cloudevents.rs",
        "event.rs",
        "subject.rs",
    ];
    for needle in ["now_utc", "Instant::now", "fastrand", "tokio::", "std::fs", "async fn"] {
        let found = offenders(needle, |path| !deciding.iter().any(|file| path == Path::new(file)));
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn runtimes_and_nats_do_not_know_each_other() {
    for needle in ["crate::nats", "    nats::"] {
        let found = offenders(needle, |path| !path.starts_with("runtime"));
        assert_eq!(found, Vec::<String>::new());
    }
    let found = offenders("runtime::", |path| !path.starts_with("nats"));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_the_cache_of_compiled_components_is_unsafe() {
    for needle in ["unsafe ", "unsafe_code"] {
        let found = offenders(needle, |path| path == Path::new("runtime/wasm/cache.rs"));
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn no_queue_is_unbounded() {
    assert_eq!(offenders("unbounded", |_| false), Vec::<String>::new());
}

#[test]
fn readme_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    let promises = readme.split("## What is promised").nth(1).expect("the promises");
    let promises = promises.split("\n## ").next().expect("an end");
    let mut names = 0;
    for name in promises.split('`').filter(|word| word.contains("::")) {
        let (module, test) = name.split_once("::").expect("module::test");
        let file = root.join(format!("tests/it/{module}.rs"));
        let text =
            fs::read_to_string(&file).unwrap_or_else(|_| panic!("{} is named", file.display()));
        assert!(test == "*" || text.contains(&format!("fn {test}(")), "{name} is named");
        names += 1;
    }
    assert!(names > 8, "every promise names its tests");
}

#[test]
fn readme_shows_every_metric() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    let metrics = pelton::metrics::Metrics::new().expect("metrics register");
    drop(metrics.binding("b"));
    drop(metrics.workers("f"));
    let text = metrics.scrape().expect("a scrape");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE pelton_")) {
        let name = line.split(' ').next().expect("a name");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
    }
}
