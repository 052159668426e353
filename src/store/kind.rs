//! The kinds of record that a store keeps. Never knows what one of them looks like.

/// A kind of record. What takes rights away stands before what gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Projects = 1,
    Users = 2,
    EndedSessions = 3,
    Sessions = 4,
    SigningKeys = 5,
    Peppers = 6,
    Resources = 7,
    Keys = 8,
    LastUses = 9,
    Once = 10,
    Audit = 11,
}

impl Kind {
    /// In the order in which they are carried over: a last use needs its key.
    pub const ALL: [Self; 11] = [
        Self::Projects,
        Self::Users,
        Self::EndedSessions,
        Self::Sessions,
        Self::SigningKeys,
        Self::Peppers,
        Self::Resources,
        Self::Keys,
        Self::LastUses,
        Self::Once,
        Self::Audit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Projects => "projects",
            Self::Users => "users",
            Self::EndedSessions => "ended_sessions",
            Self::Sessions => "sessions",
            Self::SigningKeys => "signing_keys",
            Self::Peppers => "peppers",
            Self::Resources => "resources",
            Self::Keys => "keys",
            Self::LastUses => "last_uses",
            Self::Once => "idempotency_keys",
            Self::Audit => "audit_rows",
        }
    }

    /// As it stands in snapshots and in the log, for good.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// `None`: a later Tollgate has a kind of this number.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Whether its records count their versions, and never begin anew in the same place.
    pub(super) fn only_rises(self) -> bool {
        matches!(self, Self::Keys | Self::Users | Self::Projects)
    }

    /// Whether a snapshot has it. When a key was last used is known again soon after, and nothing depends on it.
    pub(super) fn is_in_snapshots(self) -> bool {
        self != Self::LastUses
    }
}

/// Every kind that is a [`Noun`](super::records::noun::Noun), with what one of it is called among
/// [`Record`](super::record::Record)s and its type. Whatever has to know all of them is made from this list.
macro_rules! nouns {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! {
            ($($with)*)
            Projects => Project($crate::domain::record::Project),
            Users => User($crate::domain::record::User),
            EndedSessions => EndedSession($crate::domain::record::EndedSession),
            Sessions => Sessions($crate::domain::record::UserSessions),
            SigningKeys => SigningKey($crate::domain::record::SigningKey),
            Resources => Resource(::tollgate_core::resource::Resource),
            Once => Once($crate::store::OnceRecord),
        }
    };
}
pub(super) use nouns;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_carried_over() {
        macro_rules! kinds {
            (() $($kind:ident => $record:ident($type:ty),)*) => { [$(Kind::$kind),*] };
        }
        let others = [Kind::Peppers, Kind::Keys, Kind::LastUses, Kind::Audit];
        let all: Vec<Kind> = nouns!([kinds]).into_iter().chain(others).collect();
        assert!(all.iter().all(|kind| Kind::ALL.contains(kind)) && all.len() == Kind::ALL.len());
    }

    #[test]
    fn each_kind_has_a_number_and_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_number(kind.number()), Some(kind));
            assert_eq!(Kind::ALL.iter().filter(|other| other.as_str() == kind.as_str()).count(), 1);
        }
        assert_eq!((Kind::of_number(0), Kind::of_number(200)), (None, None));
    }
}
