"""The configuration of sddfkit: Hydra groups that mirror the packages, one root per verb."""
