//! Metrics of one name with their labels.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet};
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

    /// Numbers that only grow. A family without members is left out.
    pub(super) fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        members: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut members = members.into_iter().peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in members {
            metric.encode_family(&labels)?.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// Numbers that go up and down. A family without members is left out.
    pub(super) fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        members: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut members = members.into_iter().peekable();
        if members.peek().is_none() {
            return Ok(());
        }
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in members {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

/// No labels.
pub(super) const NONE: [(&str, &str); 0] = [];
