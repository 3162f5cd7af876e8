//! In which keys two bindings, or two functions, differ: for people who changed them.

use super::{Binding, Function, Order};

/// The names of the fields that differ. All fields stand in it: one that is added has to be named.
macro_rules! differences {
    ($before:expr, $after:expr; $($field:ident => $key:literal),+; $($other:ident),*) => {{
        let Self { $($field: _,)+ $($other: _),* } = $before;
        [$(($before.$field != $after.$field).then_some($key)),+].into_iter().flatten().collect()
    }};
}

impl Binding {
    /// The keys in which it differs from another.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let mut keys: Vec<_> = differences!(self, other;
            name => "name",
            subjects => "subject",
            renamed_from => "renamed_from",
            stream => "stream",
            function => "function",
            publish => "publish",
            concurrency => "concurrency",
            rate => "rate",
            timeout => "timeout",
            retry => "retry",
            ack_wait => "ack_wait",
            max_ack_pending => "max_ack_pending",
            start => "start",
            batch => "batch",
            state => "state";
            // The one is told apart below, the others follow from these keys.
            order, slots, slot_bytes
        );
        match (&self.order, &other.order) {
            (Some(order), Some(other)) => keys.extend(order.differs_in(other)),
            (None, None) => {}
            _ => keys.push("order_by"),
        }
        keys
    }
}

impl Order {
    fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        differences!(self, other;
            key => "order_by",
            lane_limit => "lane_limit",
            partitions => "partitions";
        )
    }
}

impl Function {
    /// The keys in which it differs from another.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        differences!(self, other;
            name => "name",
            runtime => "runtime",
            env => "env",
            cwd => "cwd",
            workers => "workers",
            idle_timeout => "idle_timeout",
            start_timeout => "start_timeout",
            memory_limit => "memory_limit",
            cpu_limit => "cpu_limit";
        )
    }
}
