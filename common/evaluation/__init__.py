"""The one evaluation of all runtimes: protocols, metric, results, command."""
