FROM snapensemble-serving
COPY . /bundle
