//! Arrow's values as JSON: as Parquet's are read, dates, times and decimals become their text, and bytes text if they are
//! UTF-8 and null if not.

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::as_datetime;
use arrow_array::types::*;
use arrow_array::{Array, ArrayAccessor, OffsetSizeTrait, PrimitiveArray, StructArray};
use arrow_schema::{DataType, TimeUnit};
use serde_json::Value;

/// A row of a table.
pub(super) fn object(table: &StructArray, row: usize) -> Value {
    let columns = table.column_names().into_iter().zip(table.columns());
    columns.map(|(name, column)| (name.to_owned(), value(column, row))).collect()
}

fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => number::<Int8Type>(array, row),
        DataType::Int16 => number::<Int16Type>(array, row),
        DataType::Int32 => number::<Int32Type>(array, row),
        DataType::Int64 => number::<Int64Type>(array, row),
        DataType::UInt8 => number::<UInt8Type>(array, row),
        DataType::UInt16 => number::<UInt16Type>(array, row),
        DataType::UInt32 => number::<UInt32Type>(array, row),
        DataType::UInt64 => number::<UInt64Type>(array, row),
        DataType::Float16 => f32::from(array.as_primitive::<Float16Type>().value(row)).into(),
        DataType::Float32 => number::<Float32Type>(array, row),
        DataType::Float64 => number::<Float64Type>(array, row),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary => bytes(array.as_binary::<i32>(), row),
        DataType::LargeBinary => bytes(array.as_binary::<i64>(), row),
        DataType::BinaryView => bytes(array.as_binary_view(), row),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary(), row),
        DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(row).into(),
        DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(row).into(),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row).into(),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row).into(),
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => {
            moment(array, row)
        }
        DataType::List(_) => list::<i32>(array, row),
        DataType::LargeList(_) => list::<i64>(array, row),
        DataType::FixedSizeList(..) => all(&*array.as_fixed_size_list().value(row)),
        DataType::Struct(_) => object(array.as_struct(), row),
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            (0..entries.len()).map(|i| (key(&value(keys, i)), value(values, i))).collect()
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            value(dictionary.values(), dictionary.normalized_keys()[row])
        }
        // Intervals, durations, unions: nothing that text or labels are kept in.
        _ => Value::Null,
    }
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Value
where
    Value: From<T::Native>,
{
    array.as_primitive::<T>().value(row).into()
}

fn bytes<'a>(array: impl ArrayAccessor<Item = &'a [u8]>, row: usize) -> Value {
    std::str::from_utf8(array.value(row)).map_or(Value::Null, Value::from)
}

fn list<O: OffsetSizeTrait>(array: &dyn Array, row: usize) -> Value {
    all(&*array.as_list::<O>().value(row))
}

fn all(array: &dyn Array) -> Value {
    (0..array.len()).map(|i| value(array, i)).collect()
}

fn key(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A date, a time of day, or a moment in UTC.
fn moment(array: &dyn Array, row: usize) -> Value {
    fn date_time<T: ArrowTemporalType>(array: &PrimitiveArray<T>, row: usize) -> Option<String>
    where
        i64: From<T::Native>,
    {
        as_datetime::<T>(array.value(row).into()).map(|moment| moment.to_string())
    }
    let text = match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().value_as_date(row).map(|date| date.to_string()),
        DataType::Date64 => array.as_primitive::<Date64Type>().value_as_date(row).map(|date| date.to_string()),
        DataType::Time32(TimeUnit::Second) => {
            array.as_primitive::<Time32SecondType>().value_as_time(row).map(|time| time.to_string())
        }
        DataType::Time32(_) => {
            array.as_primitive::<Time32MillisecondType>().value_as_time(row).map(|time| time.to_string())
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            array.as_primitive::<Time64MicrosecondType>().value_as_time(row).map(|time| time.to_string())
        }
        DataType::Time64(_) => {
            array.as_primitive::<Time64NanosecondType>().value_as_time(row).map(|time| time.to_string())
        }
        DataType::Timestamp(TimeUnit::Second, _) => date_time(array.as_primitive::<TimestampSecondType>(), row),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            date_time(array.as_primitive::<TimestampMillisecondType>(), row)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            date_time(array.as_primitive::<TimestampMicrosecondType>(), row)
        }
        _ => date_time(array.as_primitive::<TimestampNanosecondType>(), row),
    };
    text.map_or(Value::Null, Value::from)
}
