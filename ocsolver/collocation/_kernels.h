/* What the parts in C offer to each other; the orders of their arrays stand before their definitions. */
#ifndef OCSOLVER_KERNELS
#define OCSOLVER_KERNELS
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifdef OCSOLVER_FRAME
void measure(const Frame *y, double **values, double **end, double **out);
void quadratic(const Frame *y, double **values, const double *path, double **out);
void arrange(const Frame *y, double **own, double **out);
void worst(const Frame *y, double **own, double **out);
void meaning(const Frame *y, double **own, double **d, double **out);
void reach(const Frame *y, double **moves, const double *share, double *alpha);
void shift(const Frame *y, const double *alpha, double **d, double **out);
void renew(
    const Frame *y, double **moves, double **values, double **d, const double *share, const double *alpha, double *spare, double **out
);
#endif

/* The Newton steps of the active groups from arrays without gaps; shape (N, s, G, v, m, k), and `rows` of the Jacobians,
   of which the first v are those of the rates. 1, 0 if a system is singular or none is left, −1 if there is no memory. */
int newton_step(
    const int *shape, double *const *tables, double *const *inside, int rows, double *const *ends, const char *active,
    double *const *results
);

PyObject *py_residual(PyObject *self, PyObject *arguments);
PyObject *py_model(PyObject *self, PyObject *arguments);
PyObject *py_equations(PyObject *self, PyObject *arguments);
PyObject *py_errors(PyObject *self, PyObject *arguments);
PyObject *py_complete(PyObject *self, PyObject *arguments);
PyObject *py_room(PyObject *self, PyObject *arguments);
PyObject *py_shift(PyObject *self, PyObject *arguments);
PyObject *py_multipliers(PyObject *self, PyObject *arguments);
PyObject *py_solve(PyObject *self, PyObject *arguments);
PyObject *py_march(PyObject *self, PyObject *arguments);
PyObject *py_warm(PyObject *self, PyObject *arguments);
PyObject *py_between(PyObject *self, PyObject *arguments);
PyObject *py_better(PyObject *self, PyObject *arguments);
PyObject *py_estimate(PyObject *self, PyObject *arguments);
#endif
