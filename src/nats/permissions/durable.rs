//! The consumers of bindings, as far as a manifest alone tells.

use super::UnknownStream;
use crate::{
    manifest::{Binding, Manifest},
    nats::names::{comebacks_name, durable_name},
    subject,
};

/// One of the two consumers of a binding.
pub(super) struct Durable<'a> {
    binding: &'a str,
    pub(super) stream: &'a str,
    pub(super) name: String,
    /// In the subject that creates it, if it has just one.
    pub(super) filter: Option<String>,
    /// Whose place it takes.
    pub(super) predecessor: Option<String>,
    /// Whether it is that of events that come back from the dead letters.
    pub(super) comes_back: bool,
}

impl<'a> Durable<'a> {
    pub(super) fn main(
        manifest: &'a Manifest,
        binding: &'a Binding,
    ) -> Result<Self, UnknownStream> {
        let known = binding.subjects.iter().find_map(|subject| listed(manifest, subject));
        let stream = binding.stream.as_deref().or(known).ok_or_else(|| UnknownStream {
            binding: binding.name.clone(),
            subject: binding.subjects.first().cloned().unwrap_or_default(),
        })?;
        let named = |binding: &String| durable_name(&manifest.name, binding);
        let filter = match binding.subjects.as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        };
        Ok(Self {
            binding: &binding.name,
            stream,
            name: named(&binding.name),
            filter,
            predecessor: binding.renamed_from.as_ref().map(named),
            comes_back: false,
        })
    }

    pub(super) fn comebacks(manifest: &'a Manifest, binding: &'a Binding) -> Self {
        let Manifest { name, dead_letter, .. } = manifest;
        let one = binding.renamed_from.is_none();
        let old = binding.renamed_from.as_ref();
        Self {
            binding: &binding.name,
            stream: &dead_letter.stream,
            name: comebacks_name(name, &binding.name),
            filter: one.then(|| format!("redrive.{name}.{}", binding.name)),
            predecessor: old.map(|old| comebacks_name(name, old)),
            comes_back: true,
        }
    }

    pub(super) fn is_of(&self, binding: &Binding) -> bool {
        self.binding == binding.name
    }

    /// Its events, for people.
    pub(super) fn about(&self) -> String {
        let binding = self.binding;
        if self.comes_back { format!("{binding} (what comes back)") } else { binding.to_owned() }
    }
}

/// The stream of the manifest that holds a subject.
pub(super) fn listed<'a>(manifest: &'a Manifest, subject: &str) -> Option<&'a str> {
    let holds = |held: &String| subject::overlap(held, subject);
    let stream = manifest.streams.iter().find(|stream| stream.subjects.iter().any(holds))?;
    Some(&stream.name)
}
