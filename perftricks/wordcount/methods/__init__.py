"""The methods of counting, and their comparison."""
