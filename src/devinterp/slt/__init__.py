"""Functions under the import paths of DevInterp 2: sample a model, and sample and analyse in one call.

=============================================  ============================================================
`devinterp.slt.sampling.sample`                sample around a model's weights, into a tree
`devinterp.slt.sampler.sample_single_chain`    one chain, recording what a function of one's own gives
`devinterp.slt.llc`                            ``llc(model, ...)``, ``compute_llc(tree)``, ``token_llc(tree)``
`devinterp.slt.bif`                            ``bif(model, ...)``, ``compute_bif(tree)``
`devinterp.slt.susceptibilities`               ``susceptibilities(model, ...)``, ``compute_susceptibilities(tree)``
`devinterp.slt.weight_restrictions`            ``create_param_masks(model, ...)``, ``preview_weight_restriction``
=============================================  ============================================================

Arguments and the names of results are those of DevInterp 2; what a run leaves behind is this package's own tree
(``docs/schema.md``). The computing functions are also methods of ``tree.slt``.
"""
