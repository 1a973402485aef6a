def measure(*a): return {}
def text(*a): return ""
