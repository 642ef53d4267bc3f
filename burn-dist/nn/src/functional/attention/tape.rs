//! The operation on Flex and on the tape.

use super::heads::{Call, Heads, Sample, Scratch};
use crate::flex::{contiguous, slice, tensor};
use crate::functional::tape::{parents, register};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Autodiff, Backend, Flex, backend_extension};
use burn_flex::FlexTensor;
use rayon::prelude::*;

#[backend_extension(Flex, Autodiff)]
pub(super) trait ScaledDotProduct: Backend {
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        padding: BoolTensor<Self>,
        how: Heads,
    ) -> FloatTensor<Self>;
}

trait ScaledDotProductBackward: ScaledDotProduct {
    /// The gradients of queries, keys and values.
    fn fused_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        padding: BoolTensor<Self>,
        how: Heads,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

impl ScaledDotProduct for Flex {
    fn fused_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        padding: FlexTensor,
        how: Heads,
    ) -> FlexTensor {
        let [query, key, value] = [query, key, value].map(contiguous);
        let call = Call::new(&query, &key, padding, how);
        let mut out = vec![0.0; slice(&query).len()];
        if !call.is_empty() {
            let (of_query, of_key) = (call.queries * call.width, call.keys * call.width);
            let inputs = slice(&query).par_chunks(of_query);
            let inputs = inputs.zip(slice(&key).par_chunks(of_key));
            let inputs = inputs.zip(slice(&value).par_chunks(of_key));
            let samples = out.par_chunks_mut(of_query).zip(inputs).enumerate();
            samples.for_each_init(Scratch::default, |scratch, (index, (out, inputs))| {
                let ((query, key), value) = inputs;
                let sample = Sample {
                    index,
                    query,
                    key,
                    value,
                };
                call.forward(sample, out, scratch);
            });
        }
        tensor(out, query.layout().shape().clone())
    }
}

impl ScaledDotProductBackward for Flex {
    fn fused_attention_backward(
        inputs: [FlexTensor; 3],
        padding: FlexTensor,
        how: Heads,
        gradient: FlexTensor,
    ) -> [FlexTensor; 3] {
        let [query, key, value] = inputs.map(contiguous);
        let gradient = contiguous(gradient);
        let call = Call::new(&query, &key, padding, how);
        let mut found = [&query, &key, &value].map(|input| vec![0.0; slice(input).len()]);
        if !call.is_empty() {
            let (of_query, of_key) = (call.queries * call.width, call.keys * call.width);
            let inputs = slice(&query).par_chunks(of_query);
            let inputs = inputs.zip(slice(&key).par_chunks(of_key));
            let inputs = inputs.zip(slice(&value).par_chunks(of_key));
            let inputs = inputs.zip(slice(&gradient).par_chunks(of_query));
            let [query, key, value] = &mut found;
            let outputs = query.par_chunks_mut(of_query);
            let outputs = outputs.zip(key.par_chunks_mut(of_key));
            let outputs = outputs.zip(value.par_chunks_mut(of_key));
            let samples = outputs.zip(inputs).enumerate();
            samples.for_each_init(Scratch::default, |scratch, (index, (outputs, inputs))| {
                let ((of_query, of_key), of_value) = outputs;
                let (((query, key), value), gradient) = inputs;
                let sample = Sample {
                    index,
                    query,
                    key,
                    value,
                };
                call.backward(sample, gradient, [of_query, of_key, of_value], scratch);
            });
        }
        let [of_query, of_key, of_value] = found;
        [
            tensor(of_query, query.layout().shape().clone()),
            tensor(of_key, key.layout().shape().clone()),
            tensor(of_value, value.layout().shape().clone()),
        ]
    }
}

#[derive(Debug)]
struct AttentionNode;

impl<B: ScaledDotProductBackward> Backward<B, 3> for AttentionNode {
    type State = ([NodeId; 3], BoolTensor<B>, Heads);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (gradient, parents) = (grads.consume::<B>(&ops.node), parents(&ops));
        let (nodes, padding, how) = ops.state;
        let inputs = nodes.map(|node| checkpointer.retrieve_node_output(node));
        let found = B::fused_attention_backward(inputs, padding, how, gradient);
        register::<B, 3>(grads, parents, found.map(Some));
    }
}

impl<B: ScaledDotProductBackward, C: CheckpointStrategy> ScaledDotProduct for Autodiff<B, C> {
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        padding: BoolTensor<Self>,
        how: Heads,
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value];
        let nodes = inputs.each_ref().map(|input| input.node());
        let prepared = AttentionNode.prepare::<C>(nodes);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let nodes = inputs.each_ref().map(|input| node.checkpoint(input));
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                let out = B::fused_attention(query, key, value, padding.clone(), how);
                node.finish((nodes, padding, how), out)
            }
            OpsKind::UnTracked(node) => {
                let [query, key, value] = inputs.map(|input| input.into_primitive());
                node.finish(B::fused_attention(query, key, value, padding, how))
            }
        }
    }
}
