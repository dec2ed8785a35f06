"""The reference: the same brains by SimpleITK and ANTs, in the steps SimBA takes.

It runs in an environment of its own (``benchmarks/requirements.txt``: ANTs needs an older numpy and scipy than the
course), so it imports nothing of ours. It reads one request a line from standard input, as JSON, and answers each with
one line: the seconds of wall clock and of processor the step took, without reading and writing files.

The steps follow SimBA's public code (github.com/estanley16/SimBA, ``generate_data/generate_data.py`` and ``utils.py``):
a dense field is fitted by B-splines to the velocities inside the regions and inverted; subject and effect are
integrated by scaling and squaring with four squarings; the template is warped by the subject; the effect is carried
into the subject by conjugate action and warped into the image. Written anew.
"""

import json
import sys
import time

import ants
import numpy as np
import SimpleITK as sitk

SQUARINGS = 4


def timed(make):
    begin = time.perf_counter(), time.process_time()
    result = make()
    return result, {"wall": time.perf_counter() - begin[0], "cpu": time.process_time() - begin[1]}


def to_field(vectors):
    """An ITK vector image of an array ``(dimensions, *shape)``: ITK counts axes, and components, from the last."""
    return sitk.GetImageFromArray(np.ascontiguousarray(np.moveaxis(vectors[::-1], 0, -1)), isVector=True)


def to_array(field):
    """The inverse of :func:`to_field`."""
    return np.moveaxis(sitk.GetArrayFromImage(field), -1, 0)[::-1]


def warper_for(image):
    warper = sitk.WarpImageFilter()
    warper.SetInterpolator(sitk.sitkLinear)
    warper.SetOutputParameteresFromImage(image)  # spelt so in SimpleITK
    return warper


def flow(velocity, squarings=SQUARINGS, sign=1.0):
    """Displacement of ``exp(sign * velocity)`` by scaling and squaring."""
    displacement = sitk.GetImageFromArray(
        (sign / 2**squarings * sitk.GetArrayViewFromImage(velocity)).astype(np.float32), isVector=True)
    warper = warper_for(displacement)
    for _ in range(squarings):
        displacement = displacement + warper.Execute(displacement, displacement)
    return displacement


def smooth_fit(places, vectors, shape):
    """A dense field through scattered vectors: cubic B-splines, three levels, from a mesh of ten."""
    fitted = ants.fit_bspline_object_to_scattered_data(
        vectors, places, parametric_domain_origin=[0.0] * len(shape), parametric_domain_spacing=[1.0] * len(shape),
        parametric_domain_size=shape, number_of_fitting_levels=3, mesh_size=10)
    return fitted.numpy()


def one_image(template, places, vectors, subject):
    """One image from the velocities at ``places`` inside the regions and the subject's velocity field."""
    shape = template.shape
    dense = smooth_fit(places, vectors, shape)
    effect = sitk.InvertDisplacementField(
        to_field(np.moveaxis(dense, -1, 0)), maximumNumberOfIterations=20, maxErrorToleranceThreshold=0.01,
        meanErrorToleranceThreshold=0.0001, enforceBoundaryCondition=True)
    folds = sitk.GetArrayViewFromImage(sitk.DisplacementFieldJacobianDeterminant(effect)).min() < 0
    _, alone = timed(lambda: flow(effect, sign=-1))  # SimBA does so, and integrates it again for the transport
    velocity = to_field(subject)
    image = sitk.GetImageFromArray(template)
    inverse = flow(velocity, sign=-1)
    of_subject = warper_for(image).Execute(image, inverse)
    # Transport: there and back by the subject, with the effect between.
    back, again = timed(lambda: flow(velocity, sign=-1))  # the inverse of before, integrated again as there
    there, moved = flow(velocity), flow(effect, sign=-1)
    warper = warper_for(there)
    halfway = warper.Execute(moved, there) + there
    transported = warper.Execute(back, halfway) + halfway
    image = sitk.GetArrayFromImage(warper_for(image).Execute(of_subject, transported))
    return image, {"folds": bool(folds), "repeated": {k: alone[k] + again[k] for k in alone}}


def make_image(data, request):
    inside = np.nonzero(data["mask"])
    places = np.stack(inside, axis=1).astype(float)
    vectors = data["effect"][(slice(None), *inside)].T.astype(float)
    (image, about), took = timed(lambda: one_image(data["template"], places, vectors, data["subject"]))
    return {"image": image}, {**took, **about}


def integrate(data, request):
    """Displacements of subject, of effect, and of first the one and then the other, at full resolution."""
    def make():
        subject, effect = (flow(to_field(data[k]), request["squarings"]) for k in ("subject", "effect"))
        return subject, effect, subject + warper_for(subject).Execute(effect, subject)

    fields, took = timed(make)
    return dict(zip(("subject", "effect", "composed"), map(to_array, fields), strict=True)), took


STEPS = {"image": make_image, "integrate": integrate}

if __name__ == "__main__":
    print(json.dumps({"SimpleITK": sitk.Version_VersionString(), "ANTs": ants.__version__,
                      "numpy": np.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(asked["threads"])
        with np.load(asked["input"]) as file:
            made, took = STEPS[asked["step"]](dict(file), asked)
        if asked["output"]:
            np.savez(asked["output"], **made)
        print(json.dumps(took), flush=True)
