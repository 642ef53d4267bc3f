//! Fields of protobuf messages, appended to bytes.

/// A message that is being written. Fields are numbered as in the `.proto` file.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// `int64`, `int32` or an enumeration.
    pub(crate) fn integer(mut self, field: u32, value: i64) -> Self {
        self.key(field, 0);
        // A negative number is written as its two's complement of 64 bits.
        self.varint(u64::from_ne_bytes(value.to_ne_bytes()));
        self
    }

    /// `double`.
    pub(crate) fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// `float`.
    pub(crate) fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// `string` or `bytes`.
    pub(crate) fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// A message within this one.
    pub(crate) fn message(self, field: u32, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// `repeated double` with `packed = true`.
    pub(crate) fn doubles(mut self, field: u32, values: &[f64]) -> Self {
        self.key(field, 2);
        self.varint(size_of_val(values) as u64);
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
