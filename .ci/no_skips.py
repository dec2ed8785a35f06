"""Fail unless a pytest report (JUnit XML) holds at least one test and none that was skipped."""

import sys
import xml.etree.ElementTree as ElementTree

suites = list(ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"))
total = sum(int(suite.get("tests", 0)) for suite in suites)
skipped = [case.get("name") for suite in suites for case in suite.iter("testcase") if case.find("skipped") is not None]
if not total:
    sys.exit("No test ran.")
if skipped:
    sys.exit(f"{len(skipped)} tests were skipped, which counts as a failure here: {', '.join(skipped)}")
