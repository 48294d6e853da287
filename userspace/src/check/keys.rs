//! Keys: the secrets that the probers of a cluster log in with, and how they are replaced while the daemon runs.
//!
//! A new secret that is of no use leaves the old one in force. Who holds an old one finds the new one at the next probe.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::config::{self, Login, Secrets, TlsFiles};

/// What probers log in with.
#[derive(Clone, Debug)]
pub struct Keys {
    held: Arc<Mutex<Arc<Login>>>,
    /// What the last automatic look found wrong, so that the log hears of it once.
    complaint: Arc<Mutex<Option<String>>>,
    cluster: usize,
    notices: mpsc::Sender<Notice>,
}

/// Something that happened to the keys of a cluster by itself, for the log and the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Index in the configuration.
    pub cluster: usize,
    pub text: String,
    pub is_trouble: bool,
}

/// What a look at the files found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reread {
    /// What is new and in force: "password", "certificates".
    pub changed: Vec<&'static str>,
    /// What could not be had, and what to do; the old one stays in force.
    pub failed: Vec<String>,
}

impl Keys {
    /// Does not read anything: a configuration comes with its secrets.
    #[must_use]
    pub fn new(login: Login, cluster: usize, notices: mpsc::Sender<Notice>) -> Self {
        Self {
            held: Arc::new(Mutex::new(Arc::new(login))),
            complaint: Arc::default(),
            cluster,
            notices,
        }
    }

    /// Keys that nobody is told about.
    #[must_use]
    pub fn fixed(login: Login) -> Self {
        Self::new(login, 0, mpsc::channel(1).0)
    }

    /// Returns what to log in with now.
    #[must_use]
    pub fn held(&self) -> Arc<Login> {
        Arc::clone(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files and variables again, and takes over what is new. Blocks for as long as the disk does.
    pub fn reread(&self, secrets: &dyn Secrets) -> Reread {
        let mut reread = Reread::default();
        let mut login = Login::clone(&self.held());
        match config::password(&login.source, secrets) {
            Ok(password) if password == login.password => {}
            Ok(password) => {
                login.password = password;
                reread.changed.push("password");
            }
            Err(fault) => reread.failed.push(format!("the password stays as it was: {fault}")),
        }
        if let Some(tls) = &mut login.tls {
            match config::certificates(&tls.files, secrets) {
                Ok(material) if material == tls.material => {}
                Ok(material) => {
                    tls.material = material;
                    reread.changed.push("certificates");
                }
                Err(fault) => {
                    reread.failed.push(format!("the certificates stay as they were: {fault}"));
                }
            }
        }
        if !reread.changed.is_empty() {
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(login);
        }
        reread
    }

    /// Looks whether the server denies us because the secret was changed; returns whether there is another one to try.
    ///
    /// The log hears of a new secret, and once of each thing that is wrong with it.
    pub(super) async fn reread_after_denial(&self, tried: &Arc<Login>) -> bool {
        if !Arc::ptr_eq(&self.held(), tried) {
            // Another prober was faster.
            return true;
        }
        let keys = self.clone();
        let look = tokio::task::spawn_blocking(move || keys.reread(&config::RereadSecrets));
        let Ok(reread) = look.await else { return false };
        for what in &reread.changed {
            let text = format!(
                "the servers deny the check user, and {what} changed in {}: the new one is in use",
                place(tried, what)
            );
            self.tell(text, false);
        }
        let complaint = (!reread.failed.is_empty()).then(|| reread.failed.join("; "));
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if complaint.is_some() && *last != complaint {
            self.tell(complaint.clone().unwrap_or_default(), true);
        }
        *last = complaint;
        !reread.changed.is_empty()
    }

    fn tell(&self, text: String, is_trouble: bool) {
        // A full queue means that the log has enough to read.
        _ = self.notices.try_send(Notice { cluster: self.cluster, text, is_trouble });
    }
}

fn place(login: &Login, what: &str) -> String {
    let files = login.tls.as_ref().map(|tls| &tls.files);
    match (what, files) {
        ("certificates", Some(TlsFiles { ca, cert, key })) => {
            let paths = [ca, cert, key].into_iter().flatten();
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        }
        _ => login.source.to_string(),
    }
}
