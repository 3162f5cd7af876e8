//! What benchmarks make of their figures.

use std::fs;

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Keeps a report for whoever compares it with another one.
pub(crate) fn keep(name: &str, report: &serde_json::Value) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");
    fs::create_dir_all(folder).expect("target/bench can be made");
    fs::write(format!("{folder}/{name}.json"), format!("{report:#}\n")).expect("it is written");
    println!("written to target/bench/{name}.json");
}
