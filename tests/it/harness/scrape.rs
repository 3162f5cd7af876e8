//! What a runner's `/metrics` says.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone)]
pub(crate) struct Scrape {
    series: BTreeMap<String, f64>,
}

impl Scrape {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let series = lines
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a series and its value");
                (name.to_owned(), value.parse().expect("a number"))
            })
            .collect();
        Self { series }
    }

    /// The sum of the series of `pelton_<name>` that have all of these labels; `None` when there
    /// is no such series.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let mut sum = None;
        for (series, value) in &self.series {
            let (family, rest) = series.split_once('{').unwrap_or((series, ""));
            let has = |label: &String| {
                rest.trim_end_matches('}').split(',').any(|pair| pair == label.as_str())
            };
            if family.strip_prefix("pelton_") == Some(name) && wanted.iter().all(has) {
                sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
        sum
    }

    /// As [`find`](Self::find), for a series that must exist.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no series pelton_{name} with {labels:?} in {self:#?}"))
    }

    /// Outcomes that were not settled yet, of one binding: never below 0, never above what is in
    /// flight.
    pub(crate) fn assert_adds_up(&self, binding: &str) {
        let labels = &[("binding", binding)];
        let outcomes = self.get("invocations_total", labels);
        let settled =
            self.get("settlements_total", labels) + self.get("settlement_errors_total", labels);
        let in_flight = self.get("invocations_in_flight", labels);
        let open = outcomes - settled;
        assert!(
            (0.0..=in_flight).contains(&open),
            "{binding}: {outcomes} outcomes, {settled} settled, {in_flight} in flight"
        );
    }
}
