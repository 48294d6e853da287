//! Pools that are busy while their flows are drained.
