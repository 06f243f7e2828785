//! Which of two directors forwards: the roles, and what comes with a change.

mod announce;
mod command;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use announce::Announcer;
pub use command::{Arguments, main};

/// What a director does beside another one with the same services.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It forwards, and begins connections
    #[default]
    Active,
    /// It keeps the sessions of the active director, goes on with them where
    /// their packets come to it, and begins none
    Backup,
}

impl Role {
    /// "active" or "backup"
    pub fn name(self) -> &'static str {
        match self {
            Role::Active => "active",
            Role::Backup => "backup",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
