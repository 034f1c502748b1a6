//! Which layers of a sandbox a process is in, as it tells others.

/// Each is there, or could not be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// It holds no capability but what it is for, and gets none again.
    pub capabilities: bool,
    /// It and what it starts never gain privileges by an exec.
    pub no_new_privs: bool,
    /// System calls are filtered.
    pub seccomp: bool,
    /// The version of Landlock that binds it (at most 15); 0 where none does.
    pub landlock: u8,
}

impl Layers {
    /// The layers as a byte.
    #[must_use]
    pub fn encode(self) -> u8 {
        u8::from(self.capabilities)
            | u8::from(self.no_new_privs) << 1
            | u8::from(self.seccomp) << 2
            | self.landlock.min(15) << 4
    }

    /// The layers in a byte; `None` for one that [`Layers::encode`] does not make.
    #[must_use]
    pub fn decode(byte: u8) -> Option<Self> {
        let layers = Self {
            capabilities: byte & 1 != 0,
            no_new_privs: byte & 2 != 0,
            seccomp: byte & 4 != 0,
            landlock: byte >> 4,
        };
        (layers.encode() == byte).then_some(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_told_in_one_way_or_none() {
        for byte in 0..=u8::MAX {
            assert_eq!(
                Layers::decode(byte).map(Layers::encode),
                (byte & 8 == 0).then_some(byte)
            );
        }
        assert_eq!(Layers::decode(0), Some(Layers::default()));
    }
}
