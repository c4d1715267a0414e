"""Published reference values for statistical tests, each with its data and its origin.

Data alone, no logic. The data sets are small sets of measured figures from the cited works. Where a
figure has more digits than the cited page prints, it is the output of the named program and version
on the same data. Pairs are written (first group, second group).
"""

from __future__ import annotations

# ---------------------------------------------------------------------------- one factor, means
# Dobson (1983), An Introduction to Statistical Modelling, plant weights; `PlantGrowth` of R's
# package datasets.
PLANT_GROWTH = {
    "ctrl": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "trt1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "trt2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}
# R 4.2.2, shapiro.test of each group: W and p.
PLANT_SHAPIRO = {
    "ctrl": (0.956681490412, 0.747473443830),
    "trt1": (0.930410693515, 0.451943960318),
    "trt2": (0.941005197242, 0.564251894772),
}
# R 4.2.2, shapiro.test(residuals(aov(weight ~ group))): W and p.
PLANT_SHAPIRO_RESIDUALS = (0.9660681189, 0.437898596)
# R package car 3.1-1, leveneTest(weight ~ group): centred on the median, the default there and in
# scipy. Centred on the mean it is 1.23696295446978.
PLANT_LEVENE = {"statistic": 1.11918569487039, "p": 0.34122662412547}
# R 4.2.2, oneway.test(weight ~ group), not assuming equal variances; prints F = 5.181,
# num df = 2.000, denom df = 17.128, p-value = 0.01739.
PLANT_WELCH = {
    "F": 5.18097240811319,
    "df_between": 2.0,
    "df_within": 17.12841861664413,
    "p": 0.01739282149017,
}
# R 4.2.2, kruskal.test(weight ~ group).
PLANT_KRUSKAL = {"H": 7.988228749443715, "p": 0.018423755731472}
# R package effectsize 0.8.3, eta_squared(aov(weight ~ group), partial = FALSE).
PLANT_ETA_SQUARED = 0.26414829683212
# R package rstatix 0.7.2, games_howell_test(weight ~ group): it rounds p to three decimals.
PLANT_GAMES_HOWELL_P = {("ctrl", "trt1"): 0.475, ("ctrl", "trt2"): 0.113, ("trt1", "trt2"): 0.024}
# R package rstatix 0.7.2, dunn_test(weight ~ group, p.adjust.method = "holm"), two-sided.
PLANT_DUNN_HOLM_P = {
    ("ctrl", "trt1"): 0.263684267891386,
    ("ctrl", "trt2"): 0.182327888097000,
    ("trt1", "trt2"): 0.015000871110773,
}

# Unequal sizes and variances, made up by SciPy's developers: scipy/stats/tests/test_hypotests.py,
# TestGamesHowell (BSD-3). Differences, limits and p are SPSS's ONEWAY /POSTHOC=GH ALPHA(0.05).
# R package PMCMRplus, gamesHowellTest, gives the same p within 1e-7 (same file).
GAMES_HOWELL_GROUPS = {
    "0": [30.0, 23.0, 51.0],
    "1": [-81.0, 71.0, -27.0, 63.0],
    "2": [42.0, 11.0, 29.0, 19.0, 50.0],
    "3": [23.0, 22.0, 20.0, 18.0, 9.0],
}
# (first, second): mean of first - mean of second, lower, upper (95 %), p
GAMES_HOWELL = {
    ("0", "1"): (28.16666667, -141.985416377670, 198.318749711003, 0.8727542747886180),
    ("0", "2"): (4.466666667, -37.2830676783904, 46.2164010117237, 0.9752628408671710),
    ("0", "3"): (16.26666667, -35.0933112382470, 67.6266445715803, 0.4262506151302880),
    ("1", "2"): (-23.70000000, -195.315617201249, 147.915617201249, 0.9148950609000590),
    ("1", "3"): (-11.90000000, -188.105478728519, 164.305478728519, 0.9861432250093960),
    ("2", "3"): (11.80000000, -16.2894857524254, 39.8894857524254, 0.4755344436335670),
}
# R 4.2.2, oneway.test of the same groups.
GAMES_HOWELL_WELCH = {
    "F": 1.458673667729396,
    "df_between": 3.0,
    "df_within": 5.150331795321003,
    "p": 0.329033002027756,
}

# NIST StRD, analysis of variance, SiRstv (Ehrstein and Croarkin): resistance by instrument, the
# certified values. The certified R-squared is eta squared, between over total.
# https://www.itl.nist.gov/div898/strd/anova/anova.html
SIRSTV = {
    "1": [196.3052, 196.1240, 196.1890, 196.2569, 196.3403],
    "2": [196.3042, 196.3825, 196.1669, 196.3257, 196.0422],
    "3": [196.1303, 196.2005, 196.2889, 196.0343, 196.1811],
    "4": [196.2795, 196.1748, 196.1494, 196.1485, 195.9885],
    "5": [196.2119, 196.1051, 196.1850, 196.0052, 196.2090],
}
SIRSTV_CERTIFIED = {
    "between_sum_of_squares": 5.11462616000000e-02,
    "within_sum_of_squares": 2.16636560000000e-01,
    "F": 1.18046237440255,
    "eta_squared": 1.90999039051129e-01,
}

# ---------------------------------------------------------------------------- one factor, ranks
# Hollander and Wolfe (1973), p. 116, mucociliary efficiency; the example of R's ?kruskal.test.
MUCOCILIARY = {
    "normal": [2.9, 3.0, 2.5, 2.6, 3.2],
    "obstructive": [3.8, 2.7, 4.0, 2.4],
    "asbestosis": [2.8, 3.4, 3.7, 2.2, 2.0],
}
# R 4.2.2, kruskal.test.
MUCOCILIARY_KRUSKAL = {"H": 0.7714285714, "p": 0.679964774}
# R package effectsize, tests/testthat/test-rankES.R: rank_epsilon_squared.
MUCOCILIARY_EPSILON_SQUARED = 0.05934066

# Daily ozone in New York by month, 1973 (Chambers et al. 1983); `airquality` of R's package
# datasets, days without a measurement left out. Many ties, unequal sizes.
# fmt: off
OZONE = {
    "5": [
        41, 36, 12, 18, 28, 23, 19, 8, 7, 16, 11, 14, 18, 14, 34, 6, 30, 11, 1, 11, 4, 32, 23,
        45, 115, 37,
    ],
    "6": [
        29, 71, 39, 23, 21, 37, 20, 12, 13,
    ],
    "7": [
        135, 49, 32, 64, 40, 77, 97, 97, 85, 10, 27, 7, 48, 35, 61, 79, 63, 16, 80, 108, 20, 52,
        82, 50, 64, 59,
    ],
    "8": [
        39, 9, 16, 78, 35, 66, 122, 89, 110, 44, 28, 65, 22, 59, 23, 31, 44, 21, 9, 45, 168, 73,
        76, 118, 84, 85,
    ],
    "9": [
        96, 78, 73, 91, 47, 32, 20, 23, 21, 24, 44, 21, 28, 9, 13, 46, 18, 13, 24, 16, 13, 23,
        36, 7, 14, 30, 14, 18, 20,
    ],
}
# fmt: on
# R 4.2.2, shapiro.test of May: far from normal.
OZONE_MAY_SHAPIRO = (0.7140083998, 8.2938321e-06)
# R 4.2.2, kruskal.test(Ozone ~ Month); prints chi-squared = 29.267, df = 4, p-value = 6.901e-06.
OZONE_KRUSKAL = {"H": 29.2665763061169, "p": 6.90071411854678e-06}
# R package effectsize 0.8.3, rank_epsilon_squared: H (n + 1) / (n^2 - 1), n = 116.
OZONE_EPSILON_SQUARED = 0.254491967879278
# R packages effectsize 0.8.3, rank_eta_squared, and rstatix 0.7.2, kruskal_effsize:
# (H - k + 1) / (n - k). With rows without a measurement kept, rstatix counts them in n (0.171).
OZONE_ETA_SQUARED_H = 0.227626813568621
# R package rstatix 0.7.2, dunn_test(Ozone ~ Month, p.adjust.method = "holm"), two-sided, tie
# corrected: z (second - first), p unadjusted, p adjusted. One-sided programs (dunn.test without
# altp) give half the unadjusted p.
OZONE_DUNN_HOLM = {
    ("5", "6"): (0.9251586162687266, 3.5488340642579e-01, 1.0),
    ("5", "7"): (4.4194706406115563, 9.8942961500005e-06, 9.8942961500005e-05),
    ("5", "8"): (4.1328134222051123, 3.5834961433142e-05, 3.2251465289828e-04),
    ("5", "9"): (1.3212022825201664, 1.8643392546280e-01, 7.4573570185118e-01),
    ("6", "7"): (2.2442080323946723, 2.4819019470422e-02, 1.4891411682253e-01),
    ("6", "8"): (2.0386354872877126, 4.1486420725050e-02, 2.0743210362525e-01),
    ("6", "9"): (-0.0025385552695226, 9.9797452811915e-01, 1.0),
    ("7", "8"): (-0.2866572184064436, 7.7437479811302e-01, 1.0),
    ("7", "9"): (-3.2171991242773572, 1.2944872164509e-03, 1.0355897731607e-02),
    ("8", "9"): (-2.9228277777795233, 3.4686831611494e-03, 2.4280782128046e-02),
}
# R package effectsize 0.8.3, cliffs_delta(first, second): P(first > second) - P(first < second).
OZONE_CLIFFS_DELTA = {("5", "7"): -0.67603550295858, ("6", "9"): 0.0153256704980843}

# R package effsize, tests/testthat/testCliff.R: cliff.delta(treatment, control), "small".
CLIFF_TREATMENT = [10, 10, 20, 20, 20, 30, 30, 30, 40, 50]
CLIFF_CONTROL = [10, 20, 30, 40, 40, 50]
CLIFFS_DELTA = -0.25

# -------------------------------------------------------------------------------- two factors
# Moore and Krupat (1971), conformity by partner's status and authoritarianism; `Moore` of R's
# package carData. Unbalanced: the three types of sums of squares differ.
MOORE = {
    ("low", "low"): [8, 7, 10, 6, 13, 12, 7, 6, 8, 12],
    ("low", "medium"): [12, 4, 4, 9],
    ("low", "high"): [4, 8, 13, 9, 24, 7, 23, 13],
    ("high", "low"): [21, 23, 15, 12, 16],
    ("high", "medium"): [12, 17, 14, 16, 20, 8, 14, 17, 7, 17, 15],
    ("high", "high"): [19, 9, 7, 11, 14, 13, 10],
}
# R package car 3.1-1, Anova(lm(conformity ~ fcategory * partner.status)), type II: sum of squares,
# df, F, p.
MOORE_TYPE_II = {
    "status": (212.2137777778, 1, 10.120692189490, 0.00287422991076),
    "category": (11.6147000439, 2, 0.276958464358, 0.75956447354540),
    "interaction": (175.4889278499, 2, 4.184623260636, 0.02257244179168),
}
MOORE_RESIDUAL = (817.7639610390, 39)  # sum of squares, df
# The same with type III and sum contrasts; F and p. The interaction's row is type II's.
MOORE_TYPE_III = {"status": (11.42497, 0.0016571), "category": (0.85888, 0.4314916)}
# Aligned rank transform, type III as ARTool does: PyARTool 0.1.0 (a port of ARTool) and R 4.2.2
# with car 3.1-1 on the aligned ranks give the same F and p. Type II: status 9.956094941,
# category 0.1154912113, interaction unchanged.
MOORE_ART_TYPE_III = {
    "status": (9.915730126, 0.003139517731),
    "category": (0.1095007346, 0.8965560793),
    "interaction": (3.33629787, 0.04596992418),
}

# Higgins, Blair and Tashtoush (1990), The aligned rank transform procedure, table 1: row, column.
# Balanced, 3 x 3 with 4 a cell.
HIGGINS = {
    ("r1", "c1"): [11.5, 10.1, 9.9, 10.6],
    ("r1", "c2"): [9.0, 7.4, 8.8, 8.8],
    ("r1", "c3"): [3.8, 6.3, 4.9, 5.3],
    ("r2", "c1"): [9.9, 9.8, 9.3, 9.1],
    ("r2", "c2"): [9.3, 7.4, 7.7, 7.9],
    ("r2", "c3"): [4.1, 6.3, 5.5, 5.4],
    ("r3", "c1"): [13.9, 16.0, 14.2, 15.2],
    ("r3", "c2"): [13.0, 13.4, 11.2, 12.8],
    ("r3", "c3"): [9.6, 9.6, 11.0, 13.4],
}
# R package ARTool, tests/testthat/test.anova.art.R, equal to Wobbrock's original ARTool: df,
# residual df, F, p, four decimals. The column's F is met only if aligned values are rounded
# (ARTool: 8 decimals) before they are ranked; else rounding noise breaks ties and F is about 76.06.
HIGGINS_ART = {
    "row": (2, 27, 29.9925, 0.0000),
    "column": (2, 27, 77.8668, 0.0000),
    "interaction": (4, 27, 0.6417, 0.6374),
}

# --------------------------------------------------------------------------------- Fieller
# Graybill and Iyer (1996), chapter 6, p. 433, reaction chamber: the dial at which the mean
# temperature is 400. R package investr, inst/tinytest/test_calibrate.R, calibrate(mean.response =
# TRUE, level = 0.99). As a crossing: a + b x = 0 for temperature - 400.
CHAMBER_DIAL = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
CHAMBER_TEMPERATURE = [206.36, 225.52, 252.18, 289.33, 318.11, 349.49]
CHAMBER_TEMPERATURE += [383.03, 410.70, 444.40, 469.14, 501.16]
CHAMBER_TARGET = 400.0
# The dial, rounded to 1 decimal, and the 99 % limits, rounded to 2.
CHAMBER_FIELLER = {"confidence": 0.99, "estimate": 66.5, "lower": 65.07, "upper": 68.03}
