//! Text that no log line can show.

use std::path::PathBuf;
use std::{fmt, fs, io};

/// A password, key or token. It can be compared and handed on; printing it shows `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it proves who we are to; never for a message.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// Handed to the process, which cannot see it change.
    Given(Secret),
    /// A file that others may replace at any time.
    File(PathBuf),
}

impl SecretRef {
    /// The secret as it is now; line ends behind it do not count.
    ///
    /// # Errors
    /// [`io::Error`] where the file cannot be read or holds other bytes than text.
    pub fn read(&self) -> io::Result<Secret> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(path) => Ok(Secret::new(fs::read_to_string(path)?.trim_end_matches(['\r', '\n']))),
        }
    }

    /// True where a later look can give another secret.
    #[must_use]
    pub const fn may_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_replaced_is_seen_at_the_next_look() {
        let path = std::env::temp_dir().join(format!("syncline-secret-{}", std::process::id()));
        let secret = SecretRef::File(path.clone());
        for text in ["hunter2\r\n", "hunter3"] {
            fs::write(&path, text).expect("written");
            assert_eq!(secret.read().expect("there").reveal(), text.trim());
        }
        fs::remove_file(&path).expect("removed");
        assert!(secret.read().is_err() && secret.may_change());
    }

    #[test]
    fn a_secret_is_not_in_what_is_printed() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([secret])");
    }
}
