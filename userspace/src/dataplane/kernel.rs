//! What the data plane needs of the kernel, for the errors of one that is too old.

use std::fmt;

/// The oldest Linux that was run: `cargo xtask vm` boots it.
const OLDEST: (u32, u32) = (5, 10);

/// What is used, and the version of Linux that brought it.
const NEEDED: [(&str, (u32, u32)); 5] = [
    ("32-bit jumps", (5, 1)),
    ("bounded loops", (5, 3)),
    ("bpf_jiffies64", (5, 6)),
    ("map batch operations", (5, 6)),
    ("BPF links for XDP", (5, 9)),
];

/// What a kernel lacks by its version. Distributions carry features back, so this explains a failure and is never the cause of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lacking {
    release: String,
    features: Vec<(&'static str, (u32, u32))>,
}

impl Lacking {
    /// What the running kernel lacks; `None` when its version is no reason for a failure.
    pub(crate) fn of_this_kernel() -> Option<Self> {
        let name = nix::sys::utsname::uname().ok()?;
        Self::of(name.release().to_str()?)
    }

    fn of(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        if version >= OLDEST {
            return None;
        }
        let features = NEEDED.into_iter().filter(|(_, since)| version < *since).collect();
        Some(Self { release: release.to_owned(), features })
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        write!(
            f,
            "this is Linux {}, older than {major}.{minor}, the oldest that pairflip was run on",
            self.release
        )?;
        let mut separator = "; unless its distribution added them, it lacks ";
        for (feature, (major, minor)) in &self.features {
            write!(f, "{separator}{feature} (Linux {major}.{minor})")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_what_it_lacks_and_a_new_one_nothing() {
        let said = |release: &str| Lacking::of(release).map(|lacking| lacking.to_string());
        assert_eq!(said("5.10.0-32-cloud-amd64"), None);
        assert_eq!(said("6.18.44"), None);
        assert_eq!(said("unknown"), None);
        assert_eq!(
            said("5.8.0-63-generic").as_deref(),
            Some(
                "this is Linux 5.8.0-63-generic, older than 5.10, the oldest that pairflip was run on; unless its distribution added them, it lacks BPF links for XDP (Linux 5.9)"
            )
        );
        let old = said("4.19.0-21-amd64").unwrap();
        assert!(old.contains("32-bit jumps (Linux 5.1), bounded loops (Linux 5.3)"), "{old}");
        assert_eq!(
            said("5.9.1").as_deref(),
            Some("this is Linux 5.9.1, older than 5.10, the oldest that pairflip was run on")
        );
    }
}
