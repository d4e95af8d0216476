//! Headers, field by field.

/// Which end of a number comes first.
#[derive(Clone, Copy)]
pub enum Order {
    Little,
    Big,
}

/// A file that grows at its end.
pub struct Bytes {
    order: Order,
    pub content: Vec<u8>,
}

impl Bytes {
    pub fn new(order: Order) -> Self {
        Self { order, content: Vec::new() }
    }

    /// Numbers of so many bytes.
    pub fn fields(&mut self, fields: &[(usize, u64)]) -> &mut Self {
        for &(size, number) in fields {
            match self.order {
                Order::Little => self.content.extend(&number.to_le_bytes()[..size]),
                Order::Big => self.content.extend(&number.to_be_bytes()[8 - size..]),
            }
        }
        self
    }

    /// So many numbers zero, of eight bytes.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.fields(&vec![(8, 0); count])
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.content.extend(text.bytes());
        self
    }

    /// Zeros up to a length.
    pub fn pad(&mut self, length: usize) -> &mut Self {
        assert!(self.content.len() <= length, "{} bytes are more than {length}", self.content.len());
        self.content.resize(length, 0);
        self
    }
}
