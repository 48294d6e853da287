//! Ids: small numbers that stand for configured things, so that decisions never compare names or
//! addresses.
//!
//! The caller gives them out; the policy never makes one up, apart from [`Generation`], which it
//! counts.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id! {
    /// Index of a cluster in the configuration.
    ClusterId(u16), "cluster#"
}
id! {
    /// Index of a pair within its cluster, in configuration order.
    PairId(u16), "pair#"
}
id! {
    /// Index of a route within its cluster, in configuration order.
    RouteId(u16), "route#"
}
id! {
    /// Daemon-wide number of a backend; the index of the kernel's backend table.
    BackendId(u16), "backend#"
}
id! {
    /// Counts the route tables of one cluster; stamped on every flow.
    Generation(u32), ""
}
id! {
    /// Names an operator's command, so that its reply finds the way back.
    RequestId(u64), "request#"
}

impl Generation {
    /// Returns the generation after this one.
    ///
    /// # Panics
    ///
    /// After 2^32 tables, which is 136 years of one table per second.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("a generation is never used twice"))
    }
}
