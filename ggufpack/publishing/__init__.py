"""A finished package, given away: a repository on the Hugging Face Hub, a run in an experiment tracker."""
