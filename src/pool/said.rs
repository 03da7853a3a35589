//! What is said of a server, whatever its state: by its list, and by its operator in place of that.

use std::sync::Arc;

use crate::service::{Action, Listed, Note, Override};

#[derive(Debug, Default)]
pub(super) struct Said {
    /// `None`: not, or no longer, in the list; it is here only because the kernel has it.
    by_list: Option<Listed>,
    /// What an operator said with the list, though the server may have left it.
    note: Option<Arc<Note>>,
    overridden: Option<Arc<Override>>,
}

impl Said {
    pub(super) fn set_list(&mut self, listed: Option<Listed>, note: Option<Arc<Note>>) {
        self.by_list = listed;
        self.note = note;
    }

    pub(super) fn set_override(&mut self, by: Option<&Arc<Override>>) {
        self.overridden = by.cloned();
    }

    pub(super) fn by_list(&self) -> Option<&Listed> {
        self.by_list.as_ref()
    }

    pub(super) fn is_listed(&self) -> bool {
        self.by_list.is_some()
    }

    /// What counts. Nobody comes into a pool by an override alone.
    pub(super) fn listed(&self) -> Option<Listed> {
        let over = |listed| match &self.overridden {
            Some(by) => by.action.over(listed),
            None => listed,
        };
        self.by_list.map(over)
    }

    pub(super) fn note(&self) -> Option<&Arc<Note>> {
        match self.overridden() {
            Some(_) => self.overridden.as_ref().map(|by| &by.note),
            None => self.note.as_ref(),
        }
    }

    /// The operator's word, and what the list says.
    pub(super) fn overridden(&self) -> Option<(Action, Listed)> {
        let action = self.overridden.as_ref()?.action;
        Some((action, self.by_list?))
    }

    /// In words, for the log.
    pub(super) fn why_not_enabled(&self) -> Option<&'static str> {
        match (self.listed(), self.overridden()) {
            (None, _) => Some("no longer listed"),
            (Some(Listed { enabled: true, .. }), _) => None,
            (Some(_), Some((Action::Depool, _))) => Some("depooled by an override"),
            (Some(_), _) => Some("disabled by its list"),
        }
    }
}
