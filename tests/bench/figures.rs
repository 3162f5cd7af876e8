//! What benchmarks make of their figures.

use std::{env, fs};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// `QUICK=1`: enough to see what is slow.
    Quick,
    /// Enough to quote.
    Whole,
}

impl Scale {
    pub(crate) fn from_env() -> Self {
        match env::var("QUICK") {
            Ok(quick) if !quick.is_empty() && quick != "0" => Self::Quick,
            _ => Self::Whole,
        }
    }

    pub(crate) fn of<T>(self, quick: T, whole: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Whole => whole,
        }
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value that this share of all is below; the list must not be empty.
pub(crate) fn percentile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let index = (share * number(values.len())) as usize;
    values[index.min(values.len() - 1)]
}

pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a count of what can be measured"))
}

/// Keeps a report for whoever compares it with another one.
pub(crate) fn keep(name: &str, report: &serde_json::Value) {
    keep_file(&format!("{name}.json"), &format!("{report:#}\n"));
}

pub(crate) fn keep_file(name: &str, text: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");
    fs::create_dir_all(folder).expect("target/bench can be made");
    fs::write(format!("{folder}/{name}"), text).expect("it is written");
    println!("written to target/bench/{name}");
}
