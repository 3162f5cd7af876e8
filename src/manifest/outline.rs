//! Where everything in the text is. `serde_yaml` yields values without positions; this second pass
//! over the events of a marker parser yields positions without values. The two see one tree: both
//! resolve aliases and merges, and keep the first of two equal keys.

use std::{
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::path::{Path, Step};

/// A place in the text; both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Mark {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A value's place and shape.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) shape: Shape,
    /// Nodes in it, those behind aliases counted each time.
    size: usize,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Shape {
    Scalar { plain: bool, empty: bool },
    List(Vec<Rc<Node>>),
    Map(HashMap<String, Child>),
}

/// A key's place and its value.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) mark: Mark,
    pub(super) node: Rc<Node>,
}

/// The positions of a document.
#[derive(Debug, Default)]
pub(super) struct Outline {
    root: Option<Rc<Node>>,
    /// What YAML lets pass and a manifest does not: equal keys, tags, odd keys and merges.
    pub(super) problems: Vec<(Mark, String)>,
}

/// Why there are no positions.
#[derive(Debug)]
pub(super) enum Broken {
    /// No YAML; the other pass has the better words for it.
    Syntax(Mark, String),
    /// YAML that grows beyond what a manifest can need.
    Excessive(Mark, &'static str),
}

/// Nodes of a document, those behind aliases counted each time.
const NODES_MAX: usize = 200_000;
const TOO_LARGE: &str = "this holds more than 200000 values";
/// Levels of a document; `serde_yaml` stops at 128.
const DEPTH_MAX: usize = 64;

impl Outline {
    pub(super) fn read(text: &str) -> Result<Self, Broken> {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event
                .map_err(|err| Broken::Syntax((*err.marker()).into(), err.info().to_owned()))?;
            if builder.take(event, span)? == Progress::Complete {
                break;
            }
        }
        Ok(Self { root: builder.root, problems: builder.problems })
    }

    pub(super) fn node(&self, path: &Path) -> Option<&Node> {
        let mut node = self.root.as_deref()?;
        for step in path.steps() {
            node = node.child(step)?;
        }
        Some(node)
    }

    /// The place to point at for a value: a scalar itself, the key of anything larger.
    pub(super) fn value_mark(&self, path: &Path) -> Mark {
        match self.node(path).map(|node| (node.mark, &node.shape)) {
            Some((mark, Shape::Scalar { empty: false, .. })) => mark,
            _ => self.key_mark(path),
        }
    }

    /// The place of the key that leads to a value; of an item itself; else of what encloses it.
    pub(super) fn key_mark(&self, path: &Path) -> Mark {
        let Some(parent) = path.parent() else {
            return self.root.as_ref().map_or(Mark::START, |root| root.mark);
        };
        let step = path.steps().last();
        match (self.node(&parent).map(|node| &node.shape), step) {
            (Some(Shape::Map(children)), Some(Step::Key(key))) => {
                children.get(key).map(|child| child.mark)
            }
            (Some(Shape::List(items)), Some(Step::Index(index))) => {
                items.get(*index).map(|item| item.mark)
            }
            _ => None,
        }
        .unwrap_or_else(|| self.key_mark(&parent))
    }
}

impl Node {
    pub(super) fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.shape, step) {
            (Shape::Map(children), Step::Key(key)) => children.get(key).map(|child| &*child.node),
            (Shape::List(items), Step::Index(index)) => items.get(*index).map(|item| &**item),
            _ => None,
        }
    }
}

#[derive(PartialEq)]
enum Progress {
    More,
    Complete,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    problems: Vec<(Mark, String)>,
    /// Entries copied by merges: quadratic in the text if nothing bounds them.
    merged: usize,
}

/// A collection whose end was not seen yet.
struct Open {
    mark: Mark,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Rc<Node>>),
    Map {
        children: HashMap<String, Child>,
        merge: Option<Child>,
        key: Option<(Mark, Option<String>)>,
    },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<Progress, Broken> {
        let mark = Mark::from(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.tag(mark, tag.as_deref());
                let plain = style == ScalarStyle::Plain;
                let shape = Shape::Scalar { plain, empty: plain && text.is_empty() };
                let node = Rc::new(Node { mark, shape, size: 1, depth: 1 });
                self.place(node, anchor, Some(&text))?;
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).map(Rc::clone).ok_or_else(|| {
                    Broken::Syntax(mark, "an alias stands inside of what it names".to_owned())
                })?;
                self.place(node, 0, None)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.tag(mark, tag.as_deref());
                self.begin(mark, anchor, Kind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.tag(mark, tag.as_deref());
                let kind = Kind::Map { children: HashMap::new(), merge: None, key: None };
                self.begin(mark, anchor, kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let anchor = open.anchor;
                    let node = self.close(open)?;
                    self.place(Rc::new(node), anchor, None)?;
                }
            }
            Event::DocumentEnd | Event::StreamEnd => return Ok(Progress::Complete),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
        }
        Ok(Progress::More)
    }

    fn tag(&mut self, mark: Mark, tag: Option<&Tag>) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            self.problems.push((mark, format!("tags like `{tag}` mean nothing in a manifest")));
        }
    }

    fn begin(&mut self, mark: Mark, anchor: usize, kind: Kind) -> Result<(), Broken> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Broken::Excessive(mark, "this is nested too deeply"));
        }
        self.open.push(Open { mark, anchor, kind });
        Ok(())
    }

    /// Puts a complete node where it belongs: a key, a value, an item or the whole document.
    fn place(&mut self, node: Rc<Node>, anchor: usize, text: Option<&str>) -> Result<(), Broken> {
        if node.size > NODES_MAX {
            return Err(Broken::Excessive(node.mark, TOO_LARGE));
        }
        if node.depth > DEPTH_MAX {
            return Err(Broken::Excessive(node.mark, "aliases make this too deep"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (children, merge, key) = match &mut open.kind {
            Kind::List(items) => {
                items.push(node);
                return Ok(());
            }
            Kind::Map { children, merge, key } => (children, merge, key),
        };
        let Some((mark, name)) = key.take() else {
            if text.is_none() {
                let message = "a key must be plain text".to_owned();
                self.problems.push((node.mark, message));
            }
            *key = Some((node.mark, text.map(str::to_owned)));
            return Ok(());
        };
        let Some(name) = name else { return Ok(()) };
        let child = Child { mark, node };
        let duplicate = match (name.as_str(), &merge) {
            ("<<", None) => {
                *merge = Some(child);
                false
            }
            ("<<", Some(_)) => true,
            _ => match children.entry(name.clone()) {
                Entry::Vacant(free) => {
                    free.insert(child);
                    false
                }
                Entry::Occupied(_) => true,
            },
        };
        if duplicate {
            self.problems.push((mark, format!("the key `{name}` is there twice")));
        }
        Ok(())
    }

    fn close(&mut self, open: Open) -> Result<Node, Broken> {
        let shape = match open.kind {
            Kind::List(items) => Shape::List(items),
            Kind::Map { mut children, merge, .. } => {
                if let Some(merge) = merge {
                    self.merge(&mut children, &merge)?;
                }
                Shape::Map(children)
            }
        };
        let nodes: Vec<&Node> = match &shape {
            Shape::Scalar { .. } => Vec::new(),
            Shape::List(items) => items.iter().map(|item| &**item).collect(),
            Shape::Map(children) => children.values().map(|child| &*child.node).collect(),
        };
        let size = nodes.iter().fold(1_usize, |sum, node| sum.saturating_add(node.size));
        let depth = nodes.iter().map(|node| node.depth).max().unwrap_or_default() + 1;
        if size > NODES_MAX {
            return Err(Broken::Excessive(open.mark, TOO_LARGE));
        }
        Ok(Node { mark: open.mark, shape, size, depth })
    }

    fn merge(
        &mut self,
        children: &mut HashMap<String, Child>,
        merge: &Child,
    ) -> Result<(), Broken> {
        let sources = match &merge.node.shape {
            Shape::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![&*merge.node],
        };
        for source in sources {
            let Shape::Map(others) = &source.shape else {
                let message = "`<<` merges maps, and this is none".to_owned();
                self.problems.push((merge.mark, message));
                continue;
            };
            self.merged += others.len();
            if self.merged > NODES_MAX {
                return Err(Broken::Excessive(merge.mark, TOO_LARGE));
            }
            for (key, child) in others {
                children.entry(key.clone()).or_insert_with(|| child.clone());
            }
        }
        Ok(())
    }
}
