//! Enums whose values have names, in the report and elsewhere.

/// Gives an enum `name()` and has the report write that; a value without a name does not compile.
macro_rules! names {
    ($type:ident: $($value:ident = $name:literal),+) => {
        impl $type {
            /// All values, in the order in which they are declared.
            #[allow(dead_code, reason = "of some enums, nobody asks for all")]
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value's name, in the report and wherever it is read.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name),+
                }
            }
        }

        impl miniserde::Serialize for $type {
            fn begin(&self) -> miniserde::ser::Fragment<'_> {
                miniserde::ser::Fragment::Str(self.name().into())
            }
        }
    };
}

pub(crate) use names;
