"""CT volumes and X-ray images, read from files. numpy, SimpleITK, pydicom."""
