//! Names that firewalld takes.

use crate::kind::prelude::*;

macro_rules! names {
    ($($(#[$about:meta])* $name:ident($what:literal, $longest:literal, $others:literal);)*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
        #[serde(try_from = "String")]
        pub(super) struct $name(pub(super) String);

        from_text!($name, |text| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || $others.contains(c);
            if text.is_empty() || text.len() > $longest || !text.chars().all(is_plain) {
                return Err(format!(
                    concat!("`{}` is not ", $what, ": letters, digits and `{}`, at most {}"), text, $others, $longest
                ));
            }
            Ok(Self(text))
        });
    )*};
}

names! {
    /// A zone's name: firewalld makes chains of the packet filter from it.
    ZoneName("the name of a zone", 17, "-_");
    /// A service's name.
    ServiceName("the name of a service", 128, "-_.+");
    /// An IP protocol by name or number.
    ProtocolName("a protocol", 32, "-.");
    /// A network interface's name; a `+` at its end stands for whatever follows.
    InterfaceName("the name of a network interface", 15, "-_.:@+");
    /// A set's name.
    SetName("the name of a set", 31, "-_.:");
    /// The name of a helper for a protocol's connections.
    HelperName("the name of a helper", 64, "-_");
}
