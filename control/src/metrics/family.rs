//! Metrics of one name with their labels.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// What all metrics of one name have in common. The name has neither prefix
/// nor unit nor `_total`: these are put to it.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

impl Family {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Family { name, help, unit: None }
    }

    pub(super) const fn with_unit(name: &'static str, help: &'static str, unit: Unit) -> Self {
        Family { name, help, unit: Some(unit) }
    }

    /// A number without labels that only grows.
    pub(super) fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.describe(encoder, MetricType::Counter)?.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)
    }

    /// A number without labels that goes up and down.
    pub(super) fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.describe(encoder, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn describe<'a>(
        &'a self,
        encoder: &'a mut DescriptorEncoder<'_>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'a>, fmt::Error> {
        encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)
    }

    /// Numbers that only grow. A family without members is left out.
    pub(super) fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        members: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.members(encoder, MetricType::Counter, members, |mut member, value| {
            member.encode_counter::<[(&str, &str); 0], _, f64>(value, None)
        })
    }

    /// Numbers that go up and down. A family without members is left out.
    pub(super) fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        members: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.members(encoder, MetricType::Gauge, members, |mut member, value| member.encode_gauge(value))
    }

    fn members<L: EncodeLabelSet, V>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        kind: MetricType,
        members: impl IntoIterator<Item = (L, V)>,
        encode: impl Fn(MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let mut members = members.into_iter().peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.describe(encoder, kind)?;
        for (labels, value) in members {
            encode(metric.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }
}
