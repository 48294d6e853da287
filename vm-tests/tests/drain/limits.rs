//! What draining does not do, and says.
