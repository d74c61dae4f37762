#!/usr/bin/env python3
# Prints the constants of compare_statistics_test.cpp: Student's t, Welch's test and the incomplete beta function
# from SciPy (made with 1.17, NumPy's own arithmetic in float64), and Holm's correction from its definition.
from scipy import special, stats

for t, df in [(0.5, 1), (2.0, 2), (-3.25, 2.7), (1.96, 1e6), (12.706, 1), (0.001, 5), (40.0, 4.5), (2.776, 4)]:
    print(f"student {t} {df}: {2 * stats.t.sf(abs(t), df):.17g}")
for a, b, x in [(0.5, 0.5, 0.3), (2, 3, 0.4), (1.35, 0.5, 0.9), (50, 0.5, 0.99), (10, 20, 0.05), (0.5, 300, 1e-3)]:
    print(f"beta {a} {b} {x}: {special.betainc(a, b, x):.17g}")

groups = {
    "adamw": [3.3412, 3.3398, 3.3425],
    "muon": [3.2791, 3.2776, 3.2802, 3.2786],
    "soap": [3.2795, 3.2779],
}
names = list(groups)
p = []
for a, b in [("muon", "adamw"), ("soap", "adamw"), ("muon", "soap")]:
    r = stats.ttest_ind(groups[a], groups[b], equal_var=False)
    p.append(r.pvalue)
    print(f"welch {a} {b}: t {r.statistic:.17g} degrees {r.df:.17g} p {r.pvalue:.17g}")
order = sorted(range(len(p)), key=p.__getitem__)
worst = 0.0
corrected = [0.0] * len(p)
for k, i in enumerate(order):
    worst = max(worst, min(1.0, (len(p) - k) * p[i]))
    corrected[i] = worst
print("holm", [f"{v:.17g}" for v in corrected])
