//! Whether Pelton has become slower: ratios to the bare loop beside those that were recorded. A ratio
//! below 0.8 of the recorded one fails, if it does so three times: on a busy machine the workload is run
//! again, and the best counts. All of it keeps to two cores, since the ratios are those of two: with more,
//! the bare loop has one for itself, and Python and Node have one for each worker.
//!
//! `make bench-guard` runs it; `RECORD=1` writes what it finds to `tests/bench/recorded.json`.

use std::{collections::BTreeMap, env, fs, process, time::Duration};

use super::{
    bench::Bench,
    contender::{Contender, Kind},
    figures::Scale,
    watch::Window,
    workload::{self, Workload},
};

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/recorded.json");
const LEAST: f64 = 0.8;
const ATTEMPTS: usize = 3;
const CORES: usize = 2;
const ROUNDS: usize = 5;
const WINDOW: Window =
    Window { warm_up: Duration::from_millis(100), length: Duration::from_millis(600) };

/// Keeps this thread, and all threads and programs that it starts from now on, to two cores, where that
/// can be done.
#[cfg(target_os = "linux")]
pub(crate) fn keep_to_few_cores() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let ours = sched_getaffinity(None).expect("the cores of this thread");
    let mut few = CpuSet::new();
    let cores = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
    cores.take(CORES).for_each(|core| few.set(core));
    sched_setaffinity(None, &few).expect("fewer cores");
}

#[cfg(not(target_os = "linux"))]
pub(crate) const fn keep_to_few_cores() {}

/// By workload, by contender.
type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

pub(crate) async fn run() {
    let bench = Bench::new().await;
    let mut workloads = workload::all();
    workloads.retain(|workload| matches!(workload.name, "consume" | "transform"));
    workload::fill(&bench, &workloads, Scale::Quick).await;
    if env::var("RECORD").is_ok_and(|record| !record.is_empty()) {
        // What this build has not, keeps what was found for it.
        let mut found = recorded().unwrap_or_default();
        for workload in &workloads {
            let rows = found.entry(workload.name.to_owned()).or_default();
            rows.extend(ratios(&bench, workload).await);
        }
        let text = serde_json::to_string_pretty(&found).expect("it is JSON");
        fs::write(RECORDED, format!("{text}\n")).expect("it is written");
        return println!("recorded: {text}");
    }
    let Some(recorded) = recorded() else {
        eprintln!("error: no tests/bench/recorded.json; RECORD=1 writes it, on a quiet machine");
        process::exit(1);
    };
    let mut slower = false;
    for workload in &workloads {
        let recorded = recorded.get(workload.name).cloned().unwrap_or_default();
        slower |= !holds(&bench, workload, &recorded).await;
    }
    if slower {
        eprintln!(
            "error: slower than recorded, {ATTEMPTS} times, or not recorded; RECORD=1 if that has a good reason"
        );
        process::exit(1);
    }
}

fn recorded() -> Option<Ratios> {
    let text = fs::read_to_string(RECORDED).ok()?;
    Some(serde_json::from_str(&text).expect("it holds ratios"))
}

async fn holds(bench: &Bench, workload: &Workload, recorded: &BTreeMap<String, f64>) -> bool {
    let mut best = BTreeMap::<String, f64>::new();
    let fast = |name: &str, ratio: f64| recorded.get(name).is_none_or(|was| ratio >= LEAST * was);
    for attempt in 1..=ATTEMPTS {
        for (name, ratio) in ratios(bench, workload).await {
            let best = best.entry(name).or_insert(ratio);
            *best = best.max(ratio);
        }
        if best.iter().all(|(name, ratio)| fast(name, *ratio)) {
            break;
        }
        if attempt < ATTEMPTS {
            println!("{}: below {LEAST} of what was recorded; once more", workload.name);
        }
    }
    for (name, ratio) in &best {
        let said = match recorded.get(name) {
            None => "NOT RECORDED".to_owned(),
            Some(was) if fast(name, *ratio) => format!("recorded {was:.3}   ok"),
            Some(was) => format!("recorded {was:.3}   SLOWER"),
        };
        println!("{:<10} {name:<8} {ratio:>6.3} of bare, {said}", workload.name);
    }
    best.iter().all(|(name, ratio)| recorded.contains_key(name) && fast(name, *ratio))
}

async fn ratios(bench: &Bench, workload: &Workload) -> BTreeMap<String, f64> {
    let chosen =
        [Kind::Bare, Kind::Native, Kind::Python, Kind::Node, Kind::Wasm].map(Contender::one);
    let rows = workload::compare(bench, workload, &chosen, ROUNDS, WINDOW).await;
    rows.iter().skip(1).map(|row| (row.contender.name(), row.ratio())).collect()
}
