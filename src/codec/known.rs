//! What is known of a message, without the rest.
//!
//! The protobuf library keeps fields that it does not know: each in a map, with four lists, which is a hundred times what it takes on
//! the wire. A server has no use for them. So they are left out of a long message before it is decoded.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, MessageFull};

/// How deep messages may lie in one another: as deep as the library reads them.
const DEPTH: usize = 100;

/// What is known of a kind of message.
pub(super) struct Known {
    /// The kind, and those that may lie in it.
    kinds: Vec<Fields>,
    has_numbers: bool,
}

/// The fields of a message, by their numbers.
type Fields = Vec<Field>;

#[derive(Clone, Copy)]
enum Field {
    Unknown,
    Of(WireType),
    /// Several numbers, one by one or together.
    Numbers(WireType),
    /// A message, with its place among the kinds.
    Message(usize),
}

impl Known {
    /// What is known of such messages.
    pub(super) fn of<T: MessageFull>() -> &'static Known {
        static ALL: LazyLock<RwLock<HashMap<TypeId, &'static Known>>> = LazyLock::new(RwLock::default);
        let id = TypeId::of::<T>();
        if let Some(known) = ALL.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return known;
        }
        // One for each kind of message, for ever.
        ALL.write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_insert_with(|| Box::leak(Box::new(Known::new(T::descriptor()))))
    }

    fn new(first: MessageDescriptor) -> Known {
        let (mut kinds, mut all) = (vec![first], Vec::new());
        while let Some(kind) = kinds.get(all.len()).cloned() {
            let mut fields = Vec::new();
            for field in kind.fields() {
                let number = field.number() as usize;
                if number >= fields.len() {
                    fields.resize(number + 1, Field::Unknown);
                }
                let wire = WireType::for_type(field.proto().type_());
                fields[number] = match field.runtime_field_type() {
                    RuntimeFieldType::Singular(RuntimeType::Message(of))
                    | RuntimeFieldType::Repeated(RuntimeType::Message(of)) => {
                        let place = kinds.iter().position(|kind| *kind == of).unwrap_or_else(|| {
                            kinds.push(of);
                            kinds.len() - 1
                        });
                        Field::Message(place)
                    }
                    RuntimeFieldType::Singular(_) => Field::Of(wire),
                    RuntimeFieldType::Repeated(_) => Field::Numbers(wire),
                    RuntimeFieldType::Map(..) => Field::Of(WireType::LengthDelimited),
                };
            }
            all.push(fields);
        }
        let has_numbers = all.iter().flatten().any(|field| matches!(field, Field::Numbers(_)));
        Known { kinds: all, has_numbers }
    }

    /// Whether there are lists of numbers in it. The library makes room for as many as one says that it has, ten million at most, before
    /// any of them is there.
    pub(super) fn has_numbers(&self) -> bool {
        self.has_numbers
    }

    /// The message without what is not known of it. `None`: all of it is.
    pub(super) fn part(&self, bytes: &[u8]) -> protobuf::Result<Option<Vec<u8>>> {
        if self.is_all(0, bytes, DEPTH)? {
            return Ok(None);
        }
        let mut part = Vec::new();
        self.copy(0, bytes, &mut part)?;
        Ok(Some(part))
    }

    /// Whether all of the bytes are known of that kind, and may be read at all.
    fn is_all(&self, kind: usize, bytes: &[u8], depth: usize) -> protobuf::Result<bool> {
        let mut is_all = true;
        self.each(kind, bytes, |found| {
            is_all &= match found {
                Found::Unknown => false,
                Found::Whole(_) => true,
                Found::Message(of, _, inner) => match depth.checked_sub(1) {
                    Some(depth) => self.is_all(of, inner, depth)?,
                    None => return Err(std::io::Error::other("messages lie too deep in one another").into()),
                },
            };
            Ok(())
        })?;
        Ok(is_all)
    }

    /// Puts what is known of that kind behind what is there.
    fn copy(&self, kind: usize, bytes: &[u8], to: &mut Vec<u8>) -> protobuf::Result<()> {
        self.each(kind, bytes, |found| {
            match found {
                Found::Unknown => {}
                Found::Whole(field) => to.extend(field),
                Found::Message(of, tag, inner) => {
                    to.extend(tag);
                    // How long it is shows when it is there: a varint of four bytes more than the shortest, which is as good.
                    let at = to.len();
                    to.extend([0; 5]);
                    self.copy(of, inner, to)?;
                    let length = to.len() - at - 5;
                    for (place, byte) in to[at..at + 5].iter_mut().enumerate() {
                        *byte = (length >> (7 * place)) as u8 & 0x7f | if place < 4 { 0x80 } else { 0 };
                    }
                }
            }
            Ok(())
        })
    }

    fn each<'a>(
        &self,
        kind: usize,
        bytes: &'a [u8],
        mut take: impl FnMut(Found<'a>) -> protobuf::Result<()>,
    ) -> protobuf::Result<()> {
        let mut stream = CodedInputStream::from_bytes(bytes);
        loop {
            let start = stream.pos() as usize;
            let Some(tag) = stream.read_raw_tag_or_eof()? else { return Ok(()) };
            // The stream itself refuses a kind of field that there is not.
            let wire = WireType::new(tag & 7).ok_or_else(super::no_such_field)?;
            let behind_tag = stream.pos() as usize;
            let field = self.kinds[kind].get((tag >> 3) as usize).copied().unwrap_or(Field::Unknown);
            let is_known = match field {
                Field::Message(of) if wire == WireType::LengthDelimited => {
                    let length = super::length(&mut stream)?;
                    let inner = stream.pos() as usize;
                    stream.skip_raw_bytes(length)?;
                    take(Found::Message(of, &bytes[start..behind_tag], &bytes[inner..stream.pos() as usize]))?;
                    continue;
                }
                Field::Of(expected) => wire == expected,
                Field::Numbers(expected) => wire == expected || wire == WireType::LengthDelimited,
                Field::Unknown | Field::Message(_) => false,
            };
            stream.skip_field(wire)?;
            let whole = &bytes[start..stream.pos() as usize];
            take(if is_known { Found::Whole(whole) } else { Found::Unknown })?;
        }
    }
}

/// A field that was found.
enum Found<'a> {
    Unknown,
    /// With all of its bytes.
    Whole(&'a [u8]),
    /// The place of its kind in [`Known`], its tag, and what is in it.
    Message(usize, &'a [u8], &'a [u8]),
}
