//! What customers order, and how each order is expected to end.

use std::fmt;

use crate::follow::{News, What};

/// One order.
#[derive(Debug)]
pub(crate) struct Order {
    /// Its number.
    pub(crate) id: &'static str,
    /// What is special about it.
    pub(crate) about: &'static str,
    /// The event.
    pub(crate) json: &'static str,
    /// How it is expected to end.
    end: End,
}

/// How a flow ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// And its customer was told, and has an invoice.
    Shipped,
    DeadLetters(usize),
}

/// Two that just work, one that takes patience, one that cannot work, and one that is broken: both
/// payment and inventory get it, and each gives it up.
pub(crate) const SAMPLES: [Order; 5] = [
    Order {
        id: "o-1001",
        about: "a good card",
        json: r#"{"orderId": "o-1001", "customer": "Ada", "item": "wheel", "quantity": 1, "total": 890, "card": "good"}"#,
        end: End::Shipped,
    },
    Order {
        id: "o-1002",
        about: "a good card",
        json: r#"{"orderId": "o-1002", "customer": "Grace", "item": "nozzle", "quantity": 4, "total": 160, "card": "good"}"#,
        end: End::Shipped,
    },
    Order {
        id: "o-1003",
        about: "a flaky card, the bank answers the third time only",
        json: r#"{"orderId": "o-1003", "customer": "Lester", "item": "wheel", "quantity": 2, "total": 1780, "card": "flaky"}"#,
        end: End::Shipped,
    },
    Order {
        id: "o-1004",
        about: "a card that is declined for good",
        json: r#"{"orderId": "o-1004", "customer": "Edsger", "item": "nozzle", "quantity": 1, "total": 40, "card": "declined"}"#,
        end: End::DeadLetters(1),
    },
    Order {
        id: "o-1005",
        about: "broken JSON",
        json: r#"{"orderId": "o-1005", "customer": "Barbara", "item":"#,
        end: End::DeadLetters(2),
    },
];

/// What became of the orders so far.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    news: Vec<News>,
}

impl Orders {
    /// Remembers what happened.
    pub(crate) fn note(&mut self, news: News) {
        self.news.push(news);
    }

    /// Whether every order has come to the end it was expected to come to.
    pub(crate) fn ended(&self) -> bool {
        SAMPLES.iter().all(|order| match order.end {
            End::Shipped => {
                self.of(order).any(|what| matches!(what, What::Invoiced { .. }))
                    && self.of(order).any(|what| matches!(what, What::Notified { .. }))
            }
            End::DeadLetters(count) => self.letters(order).count() >= count,
        })
    }

    fn of(&self, order: &Order) -> impl Iterator<Item = &What> {
        self.news.iter().filter(|news| news.order == order.id).map(|news| &news.what)
    }

    fn letters(&self, order: &Order) -> impl Iterator<Item = &What> {
        self.of(order).filter(|what| matches!(what, What::DeadLetter { .. }))
    }
}

/// The summary: a line for each end of each order.
impl fmt::Display for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shipped =
            |order: &&Order| self.of(order).any(|what| matches!(what, What::Shipped { .. }));
        let dead = |order: &&Order| self.letters(order).next().is_some();
        let count = |which: &dyn Fn(&&Order) -> bool| SAMPLES.iter().filter(which).count();
        writeln!(
            f,
            "{} orders: {} shipped, {} in the dead letters",
            SAMPLES.len(),
            count(&shipped),
            count(&dead)
        )?;
        for order in &SAMPLES {
            let mut ends = self.of(order).filter(|what| what.is_end()).peekable();
            if ends.peek().is_none() {
                writeln!(f, "  {}  not at its end yet", order.id)?;
            }
            for end in ends {
                writeln!(f, "  {}  {end}", order.id)?;
            }
        }
        Ok(())
    }
}
